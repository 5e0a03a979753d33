"""What is told of a backend whose breaker is open: by which failure, and what to do. Pure."""

from __future__ import annotations

from pennyreel.errors import Code

_WHY = {
    Code.BACKEND_UNAVAILABLE.value: "it did not answer lately",
    Code.COMFY_UNAVAILABLE.value: "its ComfyUI did not answer lately",
    Code.COMFY_CRASHED.value: "its ComfyUI crashed lately",
    Code.COMFY_START_FAILED.value: "its ComfyUI did not start lately",
    Code.RATE_LIMITED.value: "it asked for fewer requests lately",
    Code.TIMEOUT.value: "a job took too long there lately",
    Code.STALLED.value: "a job made no progress there lately",
    Code.UNKNOWN_OUTCOME.value: "it took a job lately and gave no answer",
    Code.WORKER_STOPPING.value: "its workers stopped lately",
    Code.DISK_FULL.value: "its disk was full lately",
    Code.UNAUTHORIZED.value: "it refused the key lately",
}


def why(code: str) -> str:
    """Return the cause, for a person; of a code that has no words, that it failed."""
    return _WHY.get(code, "it has failed lately")


def advice(code: str, backend: str) -> str:
    """Return what to do about it; a backend that asks for a pause is given it, named or not."""
    if code == Code.RATE_LIMITED.value:
        return "Try again when that is over."
    look = "Set another key" if code == Code.UNAUTHORIZED.value else "Look at it: pennyreel doctor"
    return f"{look}, or try it now by its name: --backend {backend}"
