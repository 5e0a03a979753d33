"""All probes together: in time, never raising, the user's word first."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.waits import eventually
from fleet.machines import FAILED, GIB, RAM, Commands, Entries, Nvml, Told, load, ram, tree
from pennyreel import config
from pennyreel.fleet.devices import Detector, detect, detector, override
from pennyreel.fleet.devices.apple import AppleProbe
from pennyreel.fleet.devices.comfy import ComfyProbe
from pennyreel.fleet.devices.detector import FirstOf
from pennyreel.fleet.devices.host import linux_cpu, mac_cpu, windows_cpu
from pennyreel.fleet.devices.model import Device, Host
from pennyreel.fleet.devices.nvml import NvmlProbe
from pennyreel.fleet.devices.outside import NotHere
from pennyreel.fleet.devices.profiler import ProfilerProbe
from pennyreel.fleet.devices.registry import RegistryProbe
from pennyreel.fleet.devices.smi import LINUX, SmiProbe
from pennyreel.fleet.devices.sysfs import SysfsProbe

CARD = Device("NVIDIA GeForce RTX 3090", "nvidia", "discrete", 24 * GIB, 23 * GIB, source="nvml")


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What a probe hangs on; opened at the end, so that no thread outlives its test."""
    event = threading.Event()
    yield event
    event.set()
    eventually(lambda: not probing())


def probing() -> list[threading.Thread]:
    """The threads of probes; others may be another test's."""
    return [t for t in threading.enumerate() if t.name.startswith("pennyreel-probe-")]


class TestTime:
    def test_a_probe_that_hangs_is_left_behind_and_named(self, gate: threading.Event) -> None:
        hanging = Told("nvml", lambda: gate.wait() and [])
        sysfs = Told("sysfs", [replace(CARD, source="sysfs")])
        looking = Detector([hanging, sysfs], ram, limit_s=1.0)
        began = time.monotonic()
        found = looking.detect()
        assert time.monotonic() - began < 2.0
        assert found.took_s < 2.0
        assert [d.source for d in found.devices] == ["sysfs"]
        assert found.silent == ("nvml",)
        assert "nvml did not answer within 1 s and was left behind" in found.problems

    def test_many_hanging_probes_and_a_hanging_host_take_no_longer(
        self, gate: threading.Event
    ) -> None:
        def hang() -> Any:
            gate.wait()
            return Host()

        looking = Detector([Told(f"probe{i}", hang) for i in range(20)], hang, limit_s=1.0)
        began = time.monotonic()
        found = looking.detect()
        assert time.monotonic() - began < 2.0
        assert (found.devices, found.host, len(found.silent)) == ((), Host(), 20)

    def test_it_is_not_asked_again_while_it_hangs_and_its_late_answer_counts(
        self, gate: threading.Event
    ) -> None:
        late = Told("nvml", lambda: gate.wait() and [CARD])
        looking = Detector([late], ram, limit_s=0.5)
        assert looking.detect().silent == ("nvml",)
        assert looking.detect().silent == ("nvml",)
        assert late.asked == 1
        gate.set()
        eventually(lambda: looking.detect().devices != ())
        assert looking.detect().silent == ()

    def test_all_probes_look_at_the_same_time(self) -> None:
        together = threading.Barrier(3, timeout=1.5)

        def meet() -> list[Device]:
            together.wait()
            return []

        found = Detector([Told(f"probe{i}", meet) for i in range(3)], ram).detect()
        assert found.problems == ()


class TestFailures:
    @pytest.mark.parametrize("problem", [FAILED, OSError("no"), RecursionError(), ValueError("x")])
    def test_a_probe_that_fails_is_a_note(self, problem: Exception) -> None:
        found = Detector([Told("nvml", problem), Told("sysfs", [])], ram).detect()
        assert (found.devices, found.silent, found.host) == ((), (), RAM)
        assert len(found.problems) == 1
        assert found.problems[0].startswith("nvml: it ")

    def test_an_exceptions_words_are_not_told_they_may_hold_anything(self) -> None:
        found = Detector([Told("comfyui", ValueError("https://user:secret@host"))], ram).detect()
        assert "secret" not in str(found.to_json())

    def test_what_is_not_there_is_no_note(self) -> None:
        assert Detector([Told("nvml", NotHere("no driver"))], ram).detect().problems == ()

    def test_a_host_that_cannot_be_told_is_unknown(self) -> None:
        def broken() -> Host:
            raise OSError("no /proc")

        found = Detector([Told("nvml", [CARD])], broken).detect()
        assert (found.devices, found.host) == ((CARD,), Host())

    def test_the_second_way_is_gone_where_the_first_finds_nothing(self) -> None:
        first, second = Told("nvml", NotHere("no library")), Told("nvidia-smi", [CARD])
        assert FirstOf(first, second).look() == [CARD]
        assert FirstOf(Told("nvml", FAILED), second).look() == [CARD]
        with pytest.raises(type(FAILED)):
            FirstOf(Told("nvml", FAILED), Told("nvidia-smi", NotHere("none"))).look()
        unasked = Told("nvidia-smi", [])
        assert FirstOf(Told("nvml", [CARD]), unasked).look() == [CARD]
        assert unasked.asked == 0


class TestOverride:
    def test_it_wins_and_nothing_is_looked_at(self) -> None:
        probe = Told("nvml", [CARD])
        found = Detector([probe], ram, "RTX 4090:24GB").detect()
        (device,) = found.devices
        assert (device.name, device.vendor, device.index) == ("RTX 4090", "nvidia", 0)
        assert device.memory_total_bytes == 24 * GIB
        assert (device.source, device.confidence) == ("override", "certain")
        assert probe.asked == 0
        assert found.host == RAM

    def test_none_means_no_gpu(self) -> None:
        assert Detector([Told("nvml", [CARD])], ram, " None ").detect().devices == ()

    def test_several_and_other_units(self) -> None:
        parsed = override.parse("2x RTX 3090:24GiB, Radeon 780M : 4096 MB; Arc B580:11.5G")
        told = [(d.name, d.vendor, d.memory_total_bytes) for d in parsed]
        assert told == [
            ("RTX 3090", "nvidia", 24 * GIB),
            ("RTX 3090", "nvidia", 24 * GIB),
            ("Radeon 780M", "amd", 4 * GIB),
            ("Arc B580", "intel", 23 * GIB // 2),
        ]
        assert parsed[2].unified is True

    @pytest.mark.parametrize("text", ["none", " None", "cpu", "CPU "])
    def test_that_there_is_no_gpu_can_be_said(self, text: str) -> None:
        assert Detector([Told("nvml", [CARD])], ram, text).detect().devices == ()

    @pytest.mark.parametrize(
        "text",
        [
            "a:b:c",
            ",",
            "RTX 3090:24XB",
            "99x a:1GB",
            "x:\x00",
            ":8GB",
            "garbage",
            "Quadro P400",
            "a:8GB, b",
            "a:0GB",
        ],
    )
    def test_what_is_of_no_such_form_is_told_and_passed_over(self, text: str) -> None:
        found = Detector([Told("nvml", [CARD])], ram, text).detect()
        assert found.devices == (CARD,)
        assert found.problems[0].startswith("devices (PENNYREEL_DEVICES) is passed over: ")

    def test_the_setting_and_the_argument(self, tmp_path: Path) -> None:
        environ = {"PENNYREEL_DEVICES": "RTX 3090:24GB", "PENNYREEL_HOME": str(tmp_path)}
        settings_ = config.load({"PENNYREEL_CONFIG": "", **environ})
        assert [d.name for d in detect(settings_).devices] == ["RTX 3090"]
        assert detect(settings_, override="none").devices == ()

    @given(st.text(max_size=80))
    def test_no_text_at_all_makes_it_raise(self, text: str) -> None:
        found = Detector([], ram, text).detect()
        assert found.host == RAM


TEXTS = st.text(max_size=300) | st.from_regex(r"([0-9\[\]NA/.:, a-z-]{0,40}\n){0,5}")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


REGISTRY = st.dictionaries(
    st.sampled_from(
        ["DriverDesc", "MatchingDeviceId", "DriverVersion", "HardwareInformation.qwMemorySize"]
    ),
    VALUES | st.just("PCI\\VEN_1002&DEV_744C"),
)
ENTRY = st.dictionaries(
    st.sampled_from(["name", "type", "index", "vram_total", "vram_free"]),
    VALUES | st.sampled_from(["cuda", "mps", "cpu", "privateuseone", 1 << 30, 1 << 80, -1]),
)
STATS = st.fixed_dictionaries({"devices": st.lists(ENTRY, max_size=4) | VALUES})
FILES = st.dictionaries(
    st.sampled_from(
        ["vendor", "device", "uevent", "product_name", "gpu_busy_percent", "mem_info_vram_total",
         "mem_info_vram_used", "mem_info_gtt_total", "hwmon/hwmon1/in1_input"]
    ),
    TEXTS | st.sampled_from(["0x1002", "0x8086", "0x10de", "17163091968", "-1", "1e9"]),
)  # fmt: skip


class TestHostile:
    """Whatever the probes read, `detect` returns devices whose facts are of the right kind."""

    def sane(self, *probes: Any) -> None:
        for device in Detector(probes, ram).detect().devices:
            for size in (device.memory_total_bytes, device.memory_free_bytes, device.shared_bytes):
                assert size is None or (isinstance(size, int) and size >= 0)
            assert device.utilisation_percent is None or 0 <= device.utilisation_percent <= 100
            assert 0 < len(device.name) <= 80
            assert device.name.isprintable()

    @given(TEXTS)
    def test_outputs_of_commands(self, text: str) -> None:
        names = ("nvidia-smi", "sysctl", "ioreg", "system_profiler")
        run = Commands(dict.fromkeys(names, text))
        self.sane(SmiProbe(LINUX, run, ram), AppleProbe(run, ram), ProfilerProbe(run))

    @given(st.lists(TEXTS, min_size=7, max_size=7).map(",".join))
    def test_rows_of_nvidia_smi(self, row: str) -> None:
        self.sane(SmiProbe(LINUX, Commands({"nvidia-smi": row}), ram))

    @given(TEXTS, TEXTS, TEXTS)
    def test_sysctls_values(self, size: str, chip: str, limit: str) -> None:
        told = f"hw.memsize: {size}\nmachdep.cpu.brand_string: Apple {chip}\n"
        told += f"iogpu.wired_limit_mb: {limit}"
        self.sane(AppleProbe(Commands({"sysctl": told, "ioreg": told}), ram))

    @given(REGISTRY)
    def test_the_registrys_values(self, values: dict[str, Any]) -> None:
        self.sane(RegistryProbe(Entries({"0000": values})))

    @given(STATS)
    def test_system_stats(self, stats: dict[str, Any]) -> None:
        self.sane(ComfyProbe(lambda: stats))

    @given(st.integers(), st.integers(), st.integers(), TEXTS, TEXTS)
    def test_nvmls_numbers(self, total: int, free: int, load: int, name: str, bus: str) -> None:
        gpu = {"name": name, "total": total, "free": free, "load": load, "bus": bus}
        self.sane(NvmlProbe(lambda: Nvml([gpu]), ram))

    @settings(max_examples=60)
    @given(FILES)
    def test_the_kernels_files(self, files: dict[str, str]) -> None:
        with TemporaryDirectory() as folder:
            root = tree(Path(folder), {f"card0/device/{k}": v for k, v in files.items()})
            self.sane(SysfsProbe(root))


class TestThisMachine:
    def test_it_is_looked_at_in_time_and_has_a_processor_and_memory(self) -> None:
        found = detect()
        assert found.took_s < 2.0
        assert found.host.cpu
        assert found.host.threads
        assert found.host.ram_total_bytes is not None
        assert 0 < (found.host.ram_free_bytes or 0) <= found.host.ram_total_bytes
        # That one takes its time on a Mac that has not been asked before.
        assert set(found.silent) <= {"system_profiler"}

    def test_looking_again_and_again_leaves_no_thread(self) -> None:
        looking = detector()
        for _ in range(20):
            looking.detect()
        eventually(lambda: not probing())


class TestHost:
    def test_the_processors_name_on_each_system(self, tmp_path: Path) -> None:
        info = tmp_path / "proc/cpuinfo"
        info.parent.mkdir()
        info.write_text("processor\t: 0\nmodel name\t: AMD Ryzen 7 5800X 8-Core Processor\n")
        assert linux_cpu(tmp_path) == "AMD Ryzen 7 5800X 8-Core Processor"
        assert linux_cpu(tmp_path / "no") == ""
        assert mac_cpu(Commands({"sysctl": "Apple M1 Pro\n"})) == "Apple M1 Pro"
        assert mac_cpu(Commands({})) == ""
        assert windows_cpu(_Values("Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz ")) != ""
        assert windows_cpu(_Values(None)) == ""


class _Values:
    def __init__(self, name: object) -> None:
        self._name = name

    def subkeys(self, path: str) -> list[str]:
        raise FileNotFoundError(path)

    def values(self, path: str) -> dict[str, object]:
        return {"ProcessorNameString": self._name}


def test_a_whole_linux_laptop_by_all_its_sources(tmp_path: Path) -> None:
    """NVML has what it can tell of its card; the kernel's list adds the other GPU."""
    root = tree(tmp_path, load("sysfs")["laptop"]["files"])
    card = {
        "name": "NVIDIA GeForce RTX 3060 Laptop GPU", "total": 6 * GIB, "free": 5 * GIB, "load": 7,
        "bus": "00000000:01:00.0",
    }  # fmt: skip
    nvml = NvmlProbe(lambda: Nvml([card]), ram)
    found = Detector([FirstOf(nvml, SmiProbe(LINUX, Commands({}), ram)), SysfsProbe(root)], ram)
    amd, nvidia = sorted(found.detect().devices, key=lambda d: d.vendor)
    assert (nvidia.source, nvidia.also, nvidia.utilisation_percent) == ("nvml", ("sysfs",), 7)
    assert (amd.source, amd.unified, amd.bus) == ("sysfs", True, "0000:04:00.0")
