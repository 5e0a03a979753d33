"""Starts the whole serverless path on this machine: platform, workers, ComfyUI, S3.

The platform is emulated (`pennyreel_emulators`) and S3 is moto's; the workers are real processes
on RunPod's own SDK, each with a real ComfyUI. Everything listens on loopback only.
"""

from pennyreel.devstack.stack import DevStack, Options

__all__ = ["DevStack", "Options"]
