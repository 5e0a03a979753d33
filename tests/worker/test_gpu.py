"""What a job took of the GPU. No GPU is here: NVML is played, and its absence is real."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.waits import eventually
from pennyreel_worker.gpu import GpuMemory, cost_microusd, gpu_of

GB = 1 << 30
UUIDS = ("GPU-aaaa1111", "GPU-bbbb2222")


def stats(kind: str = "cuda", total: int = 24 * GB, free: int = 20 * GB) -> dict[str, Any]:
    device = {"name": "x", "type": kind, "vram_total": total, "vram_free": free}
    return {"system": {}, "devices": [device]}


class FakeNvml(ModuleType):
    """The library's calls that are used, on two devices. `used` is in use on each."""

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.used = {0: 1 * GB, 1: 2 * GB}
        self.total = {0: 24 * GB, 1: 24 * GB}
        self.asked: list[int] = []
        self.broken = False

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        if index not in self.used:
            raise RuntimeError("Invalid Argument")
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:  # noqa: N802
        return {"MIG-cccc": 1}[uuid]

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        return UUIDS[handle]

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:  # noqa: N802
        if self.broken:
            raise RuntimeError("GPU is lost")
        self.asked.append(handle)
        return SimpleNamespace(used=self.used[handle], total=self.total[handle])


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert "pennyreel-vram" not in {thread.name for thread in threading.enumerate()}


def test_the_played_library_has_only_functions_of_the_real_one() -> None:
    import pynvml

    names = [name for name in vars(FakeNvml) if name.startswith("nvml")]
    assert len(names) == 6
    assert all(callable(getattr(pynvml, name)) for name in names)
    assert {"used", "total"} <= {name for name, _ in pynvml.c_nvmlMemory_t._fields_}


def test_the_peak_is_of_the_whole_time(nvml: FakeNvml) -> None:
    memory = GpuMemory.find(stats)
    nvml.asked.clear()
    with memory.peak() as peak:
        eventually(lambda: len(nvml.asked) > 0)
        nvml.used[0] = 17 * GB
        seen = len(nvml.asked)
        eventually(lambda: len(nvml.asked) > seen + 1)
        nvml.used[0] = 3 * GB
    assert peak.bytes == 17 * GB


def test_a_job_shorter_than_the_interval_is_measured(nvml: FakeNvml) -> None:
    with GpuMemory.find(stats).peak() as peak:
        nvml.used[0] = 9 * GB
    assert peak.bytes == 9 * GB


@pytest.mark.parametrize(
    ("visible", "used"),
    [(None, 1), ("", 1), ("1", 2), ("1,0", 2), ("GPU-bbbb", 2), (UUIDS[0], 1), ("MIG-cccc", 2)],
)
def test_the_device_is_the_one_that_comfyui_sees(
    nvml: FakeNvml, visible: str | None, used: int
) -> None:
    with GpuMemory.find(stats, visible=visible).peak() as peak:
        pass
    assert peak.bytes == used * GB


def _other_size(nvml: FakeNvml) -> str:
    nvml.total[0] = 80 * GB
    return "0"


@pytest.mark.parametrize(
    "choose", [_other_size, lambda _: "7", lambda _: "-1", lambda _: "GPU-dddd"]
)
def test_a_device_that_nvml_has_not_or_counts_otherwise_is_asked_of_comfyui(
    nvml: FakeNvml, choose: Callable[[FakeNvml], str]
) -> None:
    with GpuMemory.find(stats, visible=choose(nvml)).peak() as peak:
        pass
    assert peak.bytes == 4 * GB


def test_without_a_driver_comfyui_is_asked() -> None:
    with GpuMemory.find(stats).peak() as peak:  # the real library, which finds no driver here
        pass
    assert peak.bytes == 4 * GB


@pytest.mark.parametrize("answer", [stats("cpu"), {}, {"devices": []}, {"devices": [None]}])
def test_without_a_gpu_there_is_no_figure(nvml: FakeNvml, answer: dict[str, Any]) -> None:
    with GpuMemory.find(lambda: answer).peak() as peak:
        pass
    assert peak.bytes is None
    assert nvml.asked == []


def test_a_comfyui_that_does_not_answer_is_no_obstacle(nvml: FakeNvml) -> None:
    def refuse() -> dict[str, Any]:
        raise OSError("down")

    with GpuMemory.find(refuse).peak() as peak:
        pass
    assert peak.bytes is None
    assert nvml.asked == []


def test_a_gpu_that_is_lost_in_mid_job_leaves_what_was_seen(nvml: FakeNvml) -> None:
    memory = GpuMemory.find(stats)
    nvml.asked.clear()
    with memory.peak() as peak:
        eventually(lambda: len(nvml.asked) > 0)
        nvml.broken = True
    assert peak.bytes == 1 * GB


def test_a_comfyui_that_hangs_does_not_keep_the_job() -> None:
    release, calls = threading.Event(), []

    def hang() -> dict[str, Any]:
        calls.append(1)
        if len(calls) > 1:
            release.wait(60)
        return stats()

    began = time.monotonic()
    with GpuMemory.find(hang).peak():
        eventually(lambda: len(calls) == 2)
    assert time.monotonic() - began < 10
    release.set()
    eventually(lambda: all(t.name != "pennyreel-vram" for t in threading.enumerate()))


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync", "NVIDIA GeForce RTX 4090"),
        ("cuda:1 NVIDIA L4 : native", "NVIDIA L4"),
        ("cuda:0 NVIDIA A100-SXM4-80GB MIG 1g.10gb : ", "NVIDIA A100-SXM4-80GB MIG 1g.10gb"),
        ("xpu:0 Intel(R) Arc(TM) A770", "Intel(R) Arc(TM) A770"),
        ("cpu", "cpu"),
        ("", ""),
    ],
)
def test_a_gpu_is_told_by_its_makers_name(told: str, name: str) -> None:
    found = gpu_of({"name": told, "type": "cuda", "vram_total": 24 * GB})
    assert (found.name, found.type, found.vram_bytes) == (name, "cuda", 24 * GB)
    assert gpu_of({}).vram_bytes is None


def test_the_price_is_rounded_up_to_a_millionth_of_a_dollar() -> None:
    assert cost_microusd(41.7, 0.00019) == 7923
    assert cost_microusd(10.0, 0.0001) == 1000  # exactly, and not 1001 by a binary fraction
    assert cost_microusd(0.001, 0.00019) == 1
    assert cost_microusd(0.0, 0.00019) == 0
    assert cost_microusd(41.7, None) is None


@given(st.integers(0, 10**8), st.integers(0, 10**6))
def test_the_price_is_the_exact_product(milliseconds: int, microusd: int) -> None:
    exact = -(-milliseconds * microusd // 1000)
    assert cost_microusd(milliseconds / 1000, microusd / 10**6) == exact
