"""What is known of a machine: its GPUs, its processor, its memory. Plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

NVIDIA, AMD, INTEL, APPLE, OTHER = "nvidia", "amd", "intel", "apple", "other"
DISCRETE, INTEGRATED, CPU, UNKNOWN = "discrete", "integrated", "cpu", "unknown"
CERTAIN, HIGH, MEDIUM, LOW = "certain", "high", "medium", "low"

GIB = 1 << 30


@dataclass(frozen=True)
class Device:
    """One GPU as one source, or several merged, tell of it. None = nobody could tell."""

    name: str
    vendor: str
    """nvidia, amd, intel, apple or other."""
    kind: str = UNKNOWN
    """discrete, integrated or unknown; cpu where a ComfyUI runs on the processor."""
    memory_total_bytes: int | None = None
    """Its own memory; of Apple's the share of RAM that it may use."""
    memory_free_bytes: int | None = None
    """Of it, now. What a running ComfyUI keeps loaded counts as used."""
    shared_bytes: int | None = None
    """Ordinary RAM that it may use besides (AMD's GTT), slower on a discrete GPU."""
    unified: bool | None = None
    """Its memory is the machine's RAM."""
    utilisation_percent: int | None = None
    index: int | None = None
    """As its source counts: NVML's, or ComfyUI's, which may differ."""
    source: str = ""
    """Who told of it, the strongest one where several did: override, comfyui, nvml, nvidia-smi,
    sysfs, registry, sysctl, system_profiler."""
    also: tuple[str, ...] = ()
    """The other sources that told of the same GPU."""
    confidence: str = MEDIUM
    """certain (set by the user), high, medium or low; of the memory above all."""
    driver: str = ""
    bus: str = ""
    """PCI address as Linux writes it, 0000:01:00.0."""
    host: str = ""
    """Empty: this machine; else the ComfyUI server whose GPU it is."""
    comfyui: bool = False
    """A ComfyUI answers that it runs on this one."""

    @property
    def budget_bytes(self) -> int | None:
        """What a model may take: its own memory, with the shared part where that is as fast."""
        if self.memory_total_bytes is None:
            return None
        return self.memory_total_bytes + ((self.shared_bytes or 0) if self.unified else 0)

    def to_json(self) -> dict[str, Any]:
        """Return plain data; sizes in bytes."""
        return {**asdict(self), "also": list(self.also), "budget_bytes": self.budget_bytes}


@dataclass(frozen=True)
class Host:
    """The processor and the memory of this machine. None = nobody could tell."""

    cpu: str = ""
    cores: int | None = None
    """Physical ones."""
    threads: int | None = None
    ram_total_bytes: int | None = None
    ram_free_bytes: int | None = None
    """What could be had without swapping."""


@dataclass(frozen=True)
class Devices:
    """All that was found, how long it took and what went wrong meanwhile."""

    devices: tuple[Device, ...] = ()
    host: Host = field(default_factory=Host)
    took_s: float = 0.0
    problems: tuple[str, ...] = ()
    """Sentences for a person: what hung, failed or contradicts itself."""
    silent: tuple[str, ...] = ()
    """The sources that did not answer in time: no GPU found is then no proof."""

    @property
    def gpus(self) -> tuple[Device, ...]:
        """Without the processor."""
        return tuple(d for d in self.devices if d.kind != CPU)

    def to_json(self) -> dict[str, Any]:
        """Return plain data; sizes in bytes, times in seconds."""
        return {
            "devices": [d.to_json() for d in self.devices],
            "host": asdict(self.host),
            "took_s": round(self.took_s, 3),
            "problems": list(self.problems),
            "silent": list(self.silent),
        }


def shown(size: int | None) -> str:
    """Return a size for a person, in binary gigabytes, as GPUs are sold."""
    return "unknown" if size is None else f"{size / GIB:.1f} GB"
