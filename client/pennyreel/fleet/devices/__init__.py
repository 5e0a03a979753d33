"""Every GPU of this machine, with its memory, who told of it, and how far to believe that.

Reading order: `model` (the answer), `fit` (does a job fit?), `machine` (which probes where),
`detector` (all at once, two seconds), the probes (`nvml`, `smi`, `sysfs`, `registry`, `apple`,
`profiler`, `comfy`), `merge` (several sources, one GPU), `override` (the user's own word).
"""

from pennyreel.fleet.devices.detector import Detector
from pennyreel.fleet.devices.fit import Fit, fits
from pennyreel.fleet.devices.machine import detect, detector
from pennyreel.fleet.devices.model import Device, Devices, Host

__all__ = ["Detector", "Device", "Devices", "Fit", "Host", "detect", "detector", "fits"]
