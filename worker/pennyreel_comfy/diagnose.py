"""What ComfyUI's last log lines, or a node's exception, say about the cause. Pure.

The texts are those of torch (c10/cuda/CUDAException.cpp, torch/cuda/__init__.py,
c10/core/impl/alloc_cpu.cpp, caffe2/serialize/inline_container.cc), of CUDA's error table, of
safetensors' SafeTensorError, of CPython's OSError, and of ComfyUI's nodes.py and comfy/utils.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath, PureWindowsPath
from typing import NamedTuple

from pennyreel_contract import Code


class Kind(str, Enum):
    """A cause that calls for an action of its own."""

    OUT_OF_VRAM = "out_of_vram"
    OUT_OF_RAM = "out_of_ram"
    DISK_FULL = "disk_full"
    POISONED = "poisoned"
    CORRUPT_MODEL = "corrupt_model"
    GPU_UNSUPPORTED = "gpu_unsupported"
    DRIVER_TOO_OLD = "driver_too_old"
    NO_CUDA_BUILD = "no_cuda_build"
    NO_GPU = "no_gpu"
    PORT_IN_USE = "port_in_use"
    PERMISSION_DENIED = "permission_denied"
    MISSING_MODULE = "missing_module"
    PACK_BROKEN = "pack_broken"


CODES = {
    Kind.OUT_OF_VRAM: Code.OUT_OF_MEMORY,
    Kind.OUT_OF_RAM: Code.OUT_OF_MEMORY,
    Kind.DISK_FULL: Code.DISK_FULL,
    Kind.POISONED: Code.COMFY_CRASHED,
}
"""The codes of an execution error's kinds; of any other kind it stays `execution_failed`."""


@dataclass(frozen=True)
class Diagnosis:
    """What went wrong.

    Attributes:
        kind: the cause.
        sentence: what is wrong, for a person.
        hint: what to do.
        fatal: whether ComfyUI cannot work on this machine as it is: starting it again is vain.

    """

    kind: Kind
    sentence: str
    hint: str
    fatal: bool


class _Rule(NamedTuple):
    kind: Kind
    pattern: re.Pattern[str]
    sentence: str
    hint: str
    fatal: bool


def _rule(kind: Kind, pattern: str, sentence: str, hint: str, *, fatal: bool) -> _Rule:
    return _Rule(kind, re.compile(pattern, re.IGNORECASE), sentence, hint, fatal)


# The order is that of the causes: an error of the hardware brings others after it.
_RULES = (
    _rule(
        Kind.DRIVER_TOO_OLD,
        # cudaErrorInsufficientDriver; torch._C._cuda_init; cudaErrorSystemDriverMismatch; nvidia
        r"CUDA driver version is insufficient for CUDA runtime version"
        r"|The NVIDIA driver on your system is too old"
        r"|system has unsupported display driver / cuda driver combination"
        r"|unsatisfied condition: cuda\s*[>=]",
        "the machine's NVIDIA driver is too old for the CUDA that this torch was built with",
        "Choose machines by CUDA version (RunPod: Allowed CUDA Versions), or an image with an"
        " older CUDA.",
        fatal=True,
    ),
    _rule(
        Kind.GPU_UNSUPPORTED,
        # cudaErrorNoKernelImageForDevice, cudaErrorUnsupportedPtxVersion;
        # torch.cuda._check_capability
        r"no kernel image is available for execution on the device"
        r"|with CUDA capability sm_\d+ is not compatible with the current PyTorch"
        r"|the provided PTX was compiled with an unsupported toolchain"
        r"|nvrtc: error: invalid value for --gpu-architecture",
        "this torch has no kernels for the machine's GPU{sm}",
        "Use an image whose torch supports this GPU (Blackwell, sm_120, needs CUDA 12.8 or newer),"
        " or choose other GPUs.",
        fatal=True,
    ),
    _rule(
        Kind.NO_CUDA_BUILD,
        r"Torch not compiled with CUDA enabled",  # torch.cuda._lazy_init
        "the installed torch is a build without CUDA",
        "Install the CUDA build of torch, or start ComfyUI with --cpu.",
        fatal=True,
    ),
    _rule(
        Kind.NO_GPU,
        # torch._C._cuda_init; cudaErrorNoDevice, cudaErrorDevicesUnavailable,
        # cudaErrorSystemNotReady
        r"No CUDA GPUs are available"
        r"|Found no NVIDIA driver on your system"
        r"|no CUDA-capable device is detected"
        r"|CUDA-capable device\(s\) is/are busy or unavailable"
        r"|CUDA error: system not yet initialized"
        r"|CUDA unknown error - this may be due to an incorrectly set up environment",
        "ComfyUI finds no usable GPU on this machine",
        "Let the platform replace the worker; locally, check nvidia-smi and --gpus.",
        fatal=True,
    ),
    _rule(
        Kind.POISONED,
        # Sticky: the CUDA context is lost, and every later call in the process fails too.
        r"CUDA error: (?:an illegal memory access|an illegal instruction|misaligned address"
        r"|device-side assert|unspecified launch failure|the launch timed out"
        r"|uncorrectable ECC|hardware stack error|invalid program counter"
        r"|invalid address space|unknown error|context is destroyed)"
        r"|device-side assert triggered"
        r"|cuDNN error: CUDNN_STATUS_(?!NOT_SUPPORTED|ALLOC_FAILED|BAD_PARAM)\w+"
        r"|CUDNN_STATUS_(?:EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR)"
        r"|CUBLAS_STATUS_(?:EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR)"
        r"|CUDA error: CUBLAS_STATUS_NOT_INITIALIZED"
        r"|HIP error: (?:an illegal memory access|unspecified launch failure)",
        "CUDA failed in a way that ComfyUI's process cannot recover from",
        "ComfyUI has to be started again. If it repeats on one machine, its GPU is faulty.",
        fatal=False,
    ),
    _rule(
        Kind.OUT_OF_VRAM,
        # torch.OutOfMemoryError, of cudaMallocAsync "Allocation on device";
        # cudaErrorMemoryAllocation
        r"(?:CUDA|HIP|XPU|MPS) (?:backend )?out of memory"
        r"|CUDA error: out of memory"
        r"|\bAllocation on device\b"
        r"|OutOfMemoryError"
        r"|CU(?:BLAS|DNN)_STATUS_ALLOC_FAILED"
        r"|Got an OOM, unloading all loaded models",  # ComfyUI's execution.py
        "the GPU ran out of memory",
        "Use fewer frames or a smaller size, or a GPU with more memory.",
        fatal=False,
    ),
    _rule(
        Kind.OUT_OF_RAM,
        # c10/core/impl/alloc_cpu.cpp; ENOMEM; numpy's _ArrayMemoryError; the kernel; std::bad_alloc
        r"DefaultCPUAllocator: (?:can't allocate memory|not enough memory)"
        r"|\[Errno 12\]|Cannot allocate memory"
        r"|(?:^|[\s.])_?(?:Array)?MemoryError\b"
        r"|Unable to allocate [\d.]+ \w+ for an array"
        r"|std::bad_alloc|oom-kill|Out of memory: Killed process",
        "the machine ran out of memory (RAM, not the GPU's)",
        "Use a worker with more RAM, or a smaller model.",
        fatal=False,
    ),
    _rule(
        Kind.DISK_FULL,
        # ENOSPC, EDQUOT; sqlite
        r"\[Errno 28\]|No space left on device|\[Errno 122\]|Disk quota exceeded"
        r"|\[WinError 112\]|database or disk is full",
        "the disk is full",
        "Give the worker more disk (RunPod: Container Disk), or fewer models.",
        fatal=False,
    ),
    _rule(
        Kind.CORRUPT_MODEL,
        # safetensors names its errors by variant up to 0.5, and by sentence from 0.6 on.
        r"Error while deserializing header"
        r"|\bHeaderTooLarge\b|\bHeaderTooSmall\b|\bInvalidHeader\w*|\bMetadataIncompleteBuffer\b"
        r"|incomplete metadata, file not fully covered"
        r"|PytorchStreamReader failed|failed finding central directory"
        r"|invalid header or archive is corrupted"
        r"|UnpicklingError: invalid load key|^invalid load key",
        "a model file is damaged or not what its name says{file}",
        "Download the model again and compare its sha256: a web page saved in its place, or a"
        " download cut short, looks like this.",
        fatal=False,
    ),
    _rule(
        Kind.PORT_IN_USE,
        # EADDRINUSE on Linux, macOS and Windows; asyncio's create_server
        r"error while attempting to bind on address|address already in use"
        r"|\[Errno 98\]|\[Errno 48\]|\[WinError 10048\]",
        "another program has ComfyUI's port",
        "End the other program, or choose another port.",
        fatal=False,
    ),
    _rule(
        Kind.PERMISSION_DENIED,
        r"\[Errno 13\][^\n]*|PermissionError[^\n]*|\[Errno 30\][^\n]*",  # EACCES, EROFS
        "ComfyUI may not read or write what it needs: {text}",
        "Give the worker's user access to that path, or mount the volume writable.",
        fatal=True,
    ),
)

# The kernel, or the container's limit, ends a process without a word. 137 is -9 as shells say it.
_KILLS = (-9, 137)
_KILLED = Diagnosis(
    Kind.OUT_OF_RAM,
    "ComfyUI was killed from outside, most likely because the machine ran out of memory (RAM)",
    "Use a worker with more RAM, or a smaller model.",
    fatal=False,
)

_MODULE = re.compile(r"(?:ModuleNotFoundError|ImportError): (.*)")
_CANNOT = re.compile(r"Cannot import (.+?) module for custom nodes: (.*)")
_FAILED = re.compile(r"\(IMPORT FAILED\): (.+)|^IMPORT FAILED: (.+)", re.MULTILINE)
_NAME = re.compile(r"No module named '([\w.]+)'")
_SM = re.compile(r"([^\n:]*?) with CUDA capability (sm_\d+) is not compatible")
_FILE = re.compile(r"File path: (.+)")
_EXECUTION = (
    *(Kind.GPU_UNSUPPORTED, Kind.POISONED, Kind.OUT_OF_VRAM, Kind.OUT_OF_RAM),
    *(Kind.DISK_FULL, Kind.CORRUPT_MODEL),
)


def diagnose(log_lines: Iterable[str], returncode: int | None = None) -> Diagnosis | None:
    """Return the cause that a log's tail tells, the gravest if it tells several, or None.

    Args:
        log_lines: the last lines that ComfyUI wrote.
        returncode: how it ended, if it did by itself, as subprocess has it: -9 for SIGKILL.

    """
    text = "\n".join(line.rstrip() for line in log_lines)
    for rule in _RULES:
        match = rule.pattern.search(text)
        if match:
            sentence = rule.sentence.format(
                sm=_gpu(text), file=_file(text), text=match.group()[:200]
            )
            return Diagnosis(rule.kind, sentence, rule.hint, rule.fatal)
    return _KILLED if returncode in _KILLS else _import_failure(text)


def classify(exception_type: str, message: str) -> Kind | None:
    """Return the kind of a node's exception, or None where it calls for nothing special.

    Args:
        exception_type: as ComfyUI's execution_error has it, such as "torch.OutOfMemoryError".
        message: the exception's text.

    """
    text = f"{exception_type}: {message}"
    for rule in _RULES:
        if rule.kind in _EXECUTION and rule.pattern.search(text):
            return rule.kind
    return None


def _import_failure(text: str) -> Diagnosis | None:
    """Tell a module that ComfyUI itself lacks from one that a node pack lacks."""
    packs = {_last(path): reason for path, reason in _CANNOT.findall(text)}
    for own, listed in _FAILED.findall(text):
        packs.setdefault(_last(own or listed), "")
    of_packs = set(packs.values())
    own_failures = [why for why in _MODULE.findall(text) if why not in of_packs]
    if own_failures and not packs:
        return Diagnosis(
            Kind.MISSING_MODULE,
            f"ComfyUI cannot start: {own_failures[-1][:200]}",
            "Install ComfyUI's requirements into the environment that runs it.",
            fatal=True,
        )
    if not packs:
        return None
    names = ", ".join(_with_reason(name, why) for name, why in list(packs.items())[:6])
    missing = any(_NAME.search(why) for why in of_packs)
    return Diagnosis(
        Kind.MISSING_MODULE if missing else Kind.PACK_BROKEN,
        f"node packs that could not be imported: {names}",
        "Install the pack's requirements into ComfyUI's own environment, or remove the pack.",
        fatal=False,
    )


def _with_reason(name: str, why: str) -> str:
    module = _NAME.search(why)
    if module:
        return f"{name} (Python module {module.group(1)} is missing)"
    return f"{name} ({why[:120]})" if why else name


def _last(path: str) -> str:
    plain = path.strip()
    return PureWindowsPath(plain).name if "\\" in plain else PurePosixPath(plain).name


def _gpu(text: str) -> str:
    found = _SM.search(text)
    return f" ({found.group(1).strip()}, {found.group(2)})" if found else ""


def _file(text: str) -> str:
    found = _FILE.search(text)
    return f": {_last(found.group(1))}" if found else ""
