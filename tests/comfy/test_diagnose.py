"""Causes are told from logs and exceptions as torch, CUDA, safetensors and ComfyUI write them."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from pennyreel_comfy.diagnose import CODES, Diagnosis, Kind, classify, diagnose
from pennyreel_contract import Code

# Blocks of real logs (ComfyUI issues 7126, 7677, 10382; torch's own texts).
BLACKWELL = """\
Total VRAM 32120 MB, total RAM 257582 MB
pytorch version: 2.6.0+cu124
/opt/venv/lib/python3.12/site-packages/torch/cuda/__init__.py:235: UserWarning:
NVIDIA GeForce RTX 5090 with CUDA capability sm_120 is not compatible with the current PyTorch \
installation.
The current PyTorch install supports CUDA capabilities sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90.
"""
NO_KERNEL = """\
RuntimeError: CUDA error: no kernel image is available for execution on the device
CUDA kernel errors might be asynchronously reported at some other API call
"""
OLD_DRIVER = """\
  File "/opt/venv/lib/python3.12/site-packages/torch/cuda/__init__.py", line 319, in _lazy_init
    torch._C._cuda_init()
RuntimeError: The NVIDIA driver on your system is too old (found version 12020).
"""
NO_GPU = "RuntimeError: No CUDA GPUs are available"
CPU_TORCH = 'AssertionError("Torch not compiled with CUDA enabled")'
PORT = """\
OSError: [Errno 98] error while attempting to bind on address ('127.0.0.1', 8188): \
address already in use
"""
PACK = """\
Traceback (most recent call last):
  File "/comfy/custom_nodes/ComfyUI-Impact-Pack/__init__.py", line 12, in <module>
    import segment_anything
ModuleNotFoundError: No module named 'segment_anything'

Cannot import /comfy/custom_nodes/ComfyUI-Impact-Pack module for custom nodes: \
No module named 'segment_anything'

Import times for custom nodes:
   0.0 seconds: /comfy/custom_nodes/websocket_image_save.py
   0.1 seconds (IMPORT FAILED): /comfy/custom_nodes/ComfyUI-Impact-Pack
"""
OWN = """\
Traceback (most recent call last):
  File "/comfy/main.py", line 160, in <module>
    import comfy.utils
ModuleNotFoundError: No module named 'torchsde'
"""
DISK = "OSError: [Errno 28] No space left on device: '/comfy/output/x.png'"
DENIED = "PermissionError: [Errno 13] Permission denied: '/runpod-volume/models'"
RAM = """\
RuntimeError: [enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: \
you tried to allocate 9437184000 bytes. Error code 12 (Cannot allocate memory)
"""
DAMAGED = """\
!!! Exception during processing !!! Error while deserializing header: HeaderTooLarge

File path: /comfy/models/checkpoints/dream.safetensors

The safetensors file is corrupt or invalid.
"""
POISON = "torch.AcceleratorError: CUDA error: an illegal memory access was encountered"


def told(text: str) -> Diagnosis:
    found = diagnose(text.splitlines())
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "kind", "fatal"),
    [
        (BLACKWELL, Kind.GPU_UNSUPPORTED, True),
        (NO_KERNEL, Kind.GPU_UNSUPPORTED, True),
        (OLD_DRIVER, Kind.DRIVER_TOO_OLD, True),
        ("CUDA driver version is insufficient for CUDA runtime version", Kind.DRIVER_TOO_OLD, True),
        (NO_GPU, Kind.NO_GPU, True),
        (CPU_TORCH, Kind.NO_CUDA_BUILD, True),
        (PORT, Kind.PORT_IN_USE, False),
        (PACK, Kind.MISSING_MODULE, False),
        (OWN, Kind.MISSING_MODULE, True),
        (DISK, Kind.DISK_FULL, False),
        (DENIED, Kind.PERMISSION_DENIED, True),
        (RAM, Kind.OUT_OF_RAM, False),
        (DAMAGED, Kind.CORRUPT_MODEL, False),
        (POISON, Kind.POISONED, False),
        ("torch.OutOfMemoryError: Allocation on device", Kind.OUT_OF_VRAM, False),
    ],
)
def test_a_log_tells_its_cause_and_whether_another_start_is_vain(
    text: str, kind: Kind, fatal: bool
) -> None:
    found = told(text)
    assert (found.kind, found.fatal) == (kind, fatal)
    assert found.sentence
    assert found.hint


def test_the_gpu_that_torch_does_not_know_is_named() -> None:
    assert "NVIDIA GeForce RTX 5090, sm_120" in told(BLACKWELL).sentence


def test_a_pack_that_fails_to_import_is_named_with_what_it_lacks() -> None:
    sentence = told(PACK).sentence
    assert "ComfyUI-Impact-Pack (Python module segment_anything is missing)" in sentence
    assert "websocket_image_save" not in sentence


def test_a_pack_that_is_only_listed_as_failed_is_named() -> None:
    found = told("   0.1 seconds (IMPORT FAILED): C:\\comfy\\custom_nodes\\some_pack")
    assert (found.kind, found.fatal) == (Kind.PACK_BROKEN, False)
    assert "some_pack" in found.sentence
    assert "comfy\\" not in found.sentence


def test_a_module_that_comfyui_itself_lacks_is_named() -> None:
    assert "torchsde" in told(OWN).sentence


def test_the_damaged_model_is_named_without_its_folder() -> None:
    sentence = told(DAMAGED).sentence
    assert "dream.safetensors" in sentence
    assert "/comfy" not in sentence


def test_a_gpu_that_fits_not_is_the_cause_of_what_follows() -> None:
    assert told(PACK + RAM + NO_KERNEL).kind is Kind.GPU_UNSUPPORTED


def test_a_kill_without_a_word_is_most_likely_a_lack_of_memory() -> None:
    found = diagnose(["got prompt"], returncode=-9)
    assert found is not None
    assert (found.kind, found.fatal) == (Kind.OUT_OF_RAM, False)
    assert diagnose(["got prompt"], returncode=1) is None
    told_why = diagnose(DISK.splitlines(), returncode=-9)
    assert told_why is not None
    assert told_why.kind is Kind.DISK_FULL


def test_an_ordinary_log_tells_nothing() -> None:
    lines = [
        "Total VRAM 24564 MB, total RAM 64000 MB",
        "Set vram state to: NORMAL_VRAM",
        "Device: cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync",
        "got prompt",
        "loaded completely 9000.0 1560.8 True",
        "Prompt executed in 12.21 seconds",
        "   0.0 seconds: /comfy/custom_nodes/ComfyUI-AnimateDiff-Evolved",
    ]
    assert diagnose(lines) is None
    assert diagnose([]) is None


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (Kind.OUT_OF_VRAM, "torch.OutOfMemoryError", "Allocation on device "),
        (Kind.OUT_OF_VRAM, "torch.cuda.OutOfMemoryError", "CUDA out of memory. Tried to allocate"),
        (Kind.OUT_OF_VRAM, "RuntimeError", "CUDA error: out of memory"),
        (Kind.OUT_OF_VRAM, "RuntimeError", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"),
        (Kind.OUT_OF_RAM, "RuntimeError", RAM),
        (Kind.OUT_OF_RAM, "MemoryError", ""),
        (
            Kind.OUT_OF_RAM,
            "numpy._core._exceptions._ArrayMemoryError",
            "Unable to allocate 3.0 GiB",
        ),
        (Kind.OUT_OF_RAM, "OSError", "[Errno 12] Cannot allocate memory"),
        (Kind.DISK_FULL, "OSError", "[Errno 28] No space left on device"),
        (Kind.POISONED, "torch.AcceleratorError", "CUDA error: an illegal memory access was"),
        (Kind.POISONED, "RuntimeError", "CUDA error: device-side assert triggered"),
        (Kind.POISONED, "RuntimeError", "CUDA error: unspecified launch failure"),
        (Kind.POISONED, "RuntimeError", "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        (Kind.CORRUPT_MODEL, "ValueError", DAMAGED),
        (
            Kind.CORRUPT_MODEL,
            "safetensors_rust.SafetensorError",
            "Error while deserializing header: incomplete metadata, file not fully covered",
        ),
        (Kind.CORRUPT_MODEL, "RuntimeError", "PytorchStreamReader failed reading zip archive"),
        (Kind.GPU_UNSUPPORTED, "RuntimeError", NO_KERNEL),
    ],
)
def test_an_exception_tells_its_kind(kind: Kind, name: str, message: str) -> None:
    assert classify(name, message) is kind


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ValueError", "not enough values to unpack"),
        ("RuntimeError", "mat1 and mat2 shapes cannot be multiplied (77x2048 and 768x320)"),
        ("RuntimeError", "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
        ("KeyError", "'memory'"),
        ("FileNotFoundError", "[Errno 2] No such file or directory: 'a.png'"),
        ("ModuleNotFoundError", "No module named 'kornia'"),
    ],
)
def test_an_ordinary_exception_has_no_kind(name: str, message: str) -> None:
    assert classify(name, message) is None


def test_what_this_python_raises_is_known() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x")
    assert classify("OSError", str(full)) is Kind.DISK_FULL
    memory = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    assert classify("OSError", str(memory)) is Kind.OUT_OF_RAM


def test_a_port_that_is_really_taken_is_told() -> None:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        first.listen()
        with pytest.raises(OSError, match="in use") as raised:
            second.bind(first.getsockname())
    assert told(f"OSError: {raised.value}").kind is Kind.PORT_IN_USE


def test_a_real_denial_is_told(tmp_path: Path) -> None:
    denied = OSError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path))
    assert told(f"{type(denied).__name__}: {denied}").kind is Kind.PERMISSION_DENIED


def test_memory_disk_and_poison_have_codes_of_their_own() -> None:
    assert CODES[Kind.OUT_OF_RAM] is Code.OUT_OF_MEMORY
    assert CODES[Kind.DISK_FULL] is Code.DISK_FULL
    assert CODES[Kind.POISONED] is Code.COMFY_CRASHED
    assert Kind.CORRUPT_MODEL not in CODES
