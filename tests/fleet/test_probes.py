"""Each probe on outputs of real machines; data/ names where each is published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pynvml
import pytest

from fleet.machines import GIB, RAM, Commands, Entries, Nvml, load, ram, tree
from pennyreel.errors import Code, error
from pennyreel.fleet.devices.apple import AppleProbe
from pennyreel.fleet.devices.comfy import ComfyProbe
from pennyreel.fleet.devices.model import Host
from pennyreel.fleet.devices.nvml import NvmlProbe
from pennyreel.fleet.devices.outside import NotHere, ProbeFailed
from pennyreel.fleet.devices.pci import product
from pennyreel.fleet.devices.profiler import ProfilerProbe
from pennyreel.fleet.devices.registry import RegistryProbe
from pennyreel.fleet.devices.smi import LINUX, SmiProbe
from pennyreel.fleet.devices.sysfs import SysfsProbe

MIB = 1 << 20
RECORDED = Path(__file__).parents[1] / "comfy/recordings/v0.3.75/GET_system_stats.json"
RTX_5090 = {"name": "NVIDIA GeForce RTX 5090", "total": 32607 * MIB, "free": 3283 * MIB, "load": 2}
SMI, SYSFS, REGISTRY = load("nvidia_smi"), load("sysfs"), load("registry")
APPLE, COMFY = load("apple"), load("comfyui")


@pytest.mark.parametrize("name", ["nvidia_smi", "sysfs", "registry", "apple", "comfyui"])
def test_every_recording_names_its_public_source(name: str) -> None:
    for case in load(name).values():
        assert len(case["source"]) > 20


class TestNvml:
    def test_memory_load_and_address_are_the_drivers(self) -> None:
        nvml = Nvml([{**RTX_5090, "bus": "00000000:01:00.0"}])
        (found,) = NvmlProbe(lambda: nvml, ram).look()
        assert (found.name, found.vendor, found.kind) == (RTX_5090["name"], "nvidia", "discrete")
        assert (found.memory_total_bytes, found.memory_free_bytes) == (32607 * MIB, 3283 * MIB)
        assert (found.utilisation_percent, found.bus, found.index) == (2, "0000:01:00.0", 0)
        assert (found.source, found.confidence, found.driver) == ("nvml", "high", "610.57.04")
        assert nvml.open == 0

    def test_old_versions_of_the_library_that_return_bytes_are_read_too(self) -> None:
        nvml = Nvml([{**RTX_5090, "bus": "00000000:01:00.0"}], old=True)
        (found,) = NvmlProbe(lambda: nvml, ram).look()
        assert (found.name, found.bus) == (RTX_5090["name"], "0000:01:00.0")

    def test_a_gpu_without_memory_of_its_own_has_the_machines(self) -> None:
        gb10 = {"name": "NVIDIA GB10", "load": 0, "bus": "0000000F:01:00.0"}
        nvml = Nvml([{**gb10, "error": pynvml.NVML_ERROR_NOT_SUPPORTED}])
        (found,) = NvmlProbe(lambda: nvml, ram).look()
        assert (found.memory_total_bytes, found.unified) == (RAM.ram_total_bytes, True)
        assert (found.kind, found.confidence) == ("integrated", "medium")
        assert (found.memory_free_bytes, found.bus) == (RAM.ram_free_bytes, "000f:01:00.0")

    def test_memory_that_may_not_be_seen_is_unknown_not_the_machines(self) -> None:
        nvml = Nvml([{**RTX_5090, "bus": "", "error": pynvml.NVML_ERROR_NO_PERMISSION}])
        (found,) = NvmlProbe(lambda: nvml, ram).look()
        assert (found.memory_total_bytes, found.unified) == (None, False)
        assert found.confidence == "low"

    def test_a_card_that_fell_off_its_bus_does_not_take_the_others_along(self) -> None:
        lost = {"handle_error": pynvml.NVML_ERROR_GPU_IS_LOST}
        first, second = NvmlProbe(lambda: Nvml([lost, {**RTX_5090, "bus": ""}]), ram).look()
        assert (first.memory_total_bytes, first.confidence) == (None, "low")
        assert (second.index, second.memory_total_bytes) == (1, 32607 * MIB)

    def test_a_load_that_the_gpu_does_not_tell_is_none(self) -> None:
        nvml = Nvml([{**RTX_5090, "bus": "", "busy_error": pynvml.NVML_ERROR_NOT_SUPPORTED}])
        (found,) = NvmlProbe(lambda: nvml, ram).look()
        assert found.utilisation_percent is None
        assert found.memory_total_bytes == 32607 * MIB

    @pytest.mark.parametrize(
        "code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED]
    )
    def test_no_driver_is_no_problem(self, code: int) -> None:
        with pytest.raises(NotHere):
            NvmlProbe(lambda: Nvml([], init=code), ram).look()

    def test_a_driver_that_was_updated_but_not_loaded_is_one(self) -> None:
        nvml = Nvml([], init=pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
        with pytest.raises(ProbeFailed, match="version mismatch"):
            NvmlProbe(lambda: nvml, ram).look()

    def test_the_real_library_is_asked_what_this_machine_has(self) -> None:
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            with pytest.raises(NotHere):
                NvmlProbe(lambda: pynvml, ram).look()
            return
        assert len(NvmlProbe(lambda: pynvml, ram).look()) == pynvml.nvmlDeviceGetCount()

    def test_without_the_library_there_is_nothing(self) -> None:
        def missing() -> Any:
            raise ImportError("pynvml")

        with pytest.raises(NotHere):
            NvmlProbe(missing, ram).look()


class TestSmi:
    def probe(self, case: str) -> tuple[SmiProbe, Commands]:
        run = Commands({"nvidia-smi": SMI[case]["output"]})
        host = Host(ram_total_bytes=SMI[case].get("ram_total"), ram_free_bytes=None)
        return SmiProbe(LINUX, run, lambda: host), run

    def test_two_cards_each_have_their_row(self) -> None:
        probe, run = self.probe("two_rtx_5090")
        first, second = probe.look()
        assert (first.name, first.index, first.bus) == (RTX_5090["name"], 0, "0000:01:00.0")
        assert (first.memory_total_bytes, first.memory_free_bytes) == (32607 * MIB, 3283 * MIB)
        assert (second.utilisation_percent, second.bus) == (2, "0000:02:00.0")
        assert (first.source, first.confidence, first.driver) == ("nvidia-smi", "high", "610.57.04")
        assert run.asked[0][0] == "/usr/bin/nvidia-smi"

    def test_windows_line_ends_do_no_harm(self) -> None:
        (found,) = self.probe("rtx_4090")[0].look()
        assert (found.name, found.bus) == ("NVIDIA GeForce RTX 4090", "0000:4e:00.0")

    def test_a_gpu_without_memory_of_its_own_has_the_machines(self) -> None:
        (found,) = self.probe("gb10")[0].look()
        assert (found.memory_total_bytes, found.unified) == (SMI["gb10"]["ram_total"], True)
        assert (found.kind, found.utilisation_percent) == ("integrated", 0)

    def test_without_its_driver_the_tool_has_nothing_to_tell(self) -> None:
        words = SMI["no_driver"]["output"]
        run = Commands({"nvidia-smi": ProbeFailed(f"nvidia-smi ended with 9: {words}")})
        with pytest.raises(NotHere):
            SmiProbe(LINUX, run, ram).look()

    def test_the_tool_is_only_run_by_its_absolute_paths(self) -> None:
        run = Commands({})
        with pytest.raises(NotHere):
            SmiProbe(LINUX, run, ram).look()
        assert [command[0] for command in run.asked] == list(LINUX)
        assert all(command[0].startswith("/") for command in run.asked)

    @pytest.mark.parametrize("cell", ["[Insufficient Permissions]", "[GPU requires reset]", ""])
    def test_memory_that_cannot_be_told_is_unknown(self, cell: str) -> None:
        row = f"0, {cell}, {cell}, [N/A], 535.0, 00000000:01:00.0, NVIDIA A100"
        (found,) = SmiProbe(LINUX, Commands({"nvidia-smi": row}), ram).look()
        assert (found.memory_total_bytes, found.utilisation_percent) == (None, None)
        assert (found.unified, found.confidence) == (False, "low")

    def test_an_answer_of_another_form_is_a_failure(self) -> None:
        with pytest.raises(ProbeFailed):
            SmiProbe(LINUX, Commands({"nvidia-smi": "what?\nno"}), ram).look()


class TestSysfs:
    def look(self, root: Path, case: str) -> Any:
        return SysfsProbe(tree(root, SYSFS[case]["files"])).look()

    def test_an_apu_tells_what_is_set_aside_and_what_it_shares_apart(self, tmp_path: Path) -> None:
        (found,) = self.look(tmp_path, "strix_halo")
        assert (found.memory_total_bytes, found.shared_bytes) == (4 * GIB, 96 * GIB)
        assert (found.kind, found.unified, found.budget_bytes) == ("integrated", True, 100 * GIB)
        assert (found.bus, found.driver, found.source) == ("0000:c3:00.0", "amdgpu", "sysfs")

    def test_an_apu_without_sensors_is_known_by_what_little_is_set_aside(
        self, tmp_path: Path
    ) -> None:
        (found,) = self.look(tmp_path, "strix_halo_small")
        assert (found.memory_total_bytes, found.unified) == (GIB // 2, True)
        assert found.memory_free_bytes == GIB // 2 - 148 * MIB
        assert found.budget_bytes == GIB // 2 + 124 * GIB

    def test_a_card_has_its_own_memory_and_load(self, tmp_path: Path) -> None:
        (found,) = self.look(tmp_path, "eight_gb_card")
        assert (found.kind, found.unified, found.confidence) == ("discrete", False, "high")
        assert found.memory_free_bytes == 8573157376 - 6812925952
        assert (found.utilisation_percent, found.budget_bytes) == (1, 8573157376)

    def test_what_a_card_shares_does_not_count_as_its_memory(self, tmp_path: Path) -> None:
        (found,) = self.look(tmp_path, "rx_570")
        assert (found.shared_bytes, found.budget_bytes) == (4 * GIB, 4 * GIB)

    def test_a_laptop_has_both_its_gpus(self, tmp_path: Path) -> None:
        amd, nvidia = self.look(tmp_path, "laptop")
        assert (amd.vendor, amd.unified) == ("amd", True)
        assert (nvidia.name, nvidia.memory_total_bytes) == ("NVIDIA GPU 0x2520", None)
        assert (nvidia.confidence, nvidia.driver) == ("low", "nvidia")

    def test_intels_inside_uses_the_ram_and_does_not_say_how_much(self, tmp_path: Path) -> None:
        (found,) = self.look(tmp_path, "intel_inside")
        assert (found.vendor, found.kind, found.unified) == ("intel", "integrated", True)
        assert (found.memory_total_bytes, found.confidence) == (None, "low")

    def test_an_intel_card_has_a_size_only_where_the_driver_tells_it(self, tmp_path: Path) -> None:
        (found,) = self.look(tmp_path / "told", "arc_a750")
        assert (found.kind, found.memory_total_bytes) == ("discrete", 8522825728)
        files = {k: v for k, v in SYSFS["arc_a750"]["files"].items() if "vram" not in k}
        (silent,) = SysfsProbe(tree(tmp_path / "silent", files)).look()
        assert (silent.memory_total_bytes, silent.confidence) == (None, "low")

    def test_a_servers_own_display_is_no_gpu(self, tmp_path: Path) -> None:
        assert self.look(tmp_path, "server") == []

    def test_without_the_folder_there_is_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(NotHere):
            SysfsProbe(tmp_path).look()

    def test_a_name_comes_from_the_systems_list_of_pci_ids(self, tmp_path: Path) -> None:
        listed = tmp_path / "usr/share/misc/pci.ids"
        listed.parent.mkdir(parents=True)
        # Lines of pci-ids.ucw.cz.
        listed.write_text(
            "# comment\n1001  Kolter Electronic\n1002  Advanced Micro Devices, Inc. [AMD/ATI]\n"
            "\t1586  Strix Halo [Radeon Graphics / Radeon 8050S Graphics / Radeon 8060S Graphics]\n"
            "\t\t1043 88d9  ROG\n10de  NVIDIA Corporation\n\t1586  Something else\n",
            "utf-8",
        )
        (found,) = self.look(tmp_path, "strix_halo")
        assert found.name.startswith("AMD Strix Halo [Radeon")
        assert product(tmp_path, 0x10DE, 0x1586) == "Something else"
        assert product(tmp_path, 0x1002, 0x9999) is None
        assert product(tmp_path, 0x9999, 0x1586) is None


class TestRegistry:
    def look(self, case: str) -> Any:
        return RegistryProbe(Entries(REGISTRY[case]["entries"])).look()

    def test_the_size_is_the_64_bit_one(self) -> None:
        nvidia, intel = self.look("rtx_4090")
        assert (nvidia.name, nvidia.memory_total_bytes) == ("NVIDIA GeForce RTX 4090", 24 * GIB)
        assert (nvidia.kind, nvidia.source, nvidia.confidence) == ("discrete", "registry", "medium")
        assert (intel.vendor, intel.kind, intel.unified) == ("intel", "integrated", True)

    def test_a_radeon_of_32_gb_has_32_gb(self) -> None:
        (found,) = self.look("radeon_r9700")
        assert (found.vendor, found.kind) == ("amd", "discrete")
        assert found.memory_total_bytes == 32 * GIB

    def test_a_size_in_bytes_is_read_lowest_first(self) -> None:
        (found,) = self.look("arc_a770")
        assert (found.vendor, found.kind) == ("intel", "discrete")
        assert (found.memory_total_bytes, found.driver) == (16 * GIB, "32.0.101.5972")

    def test_without_the_64_bit_size_it_is_unknown_whatever_the_32_bit_one_says(self) -> None:
        nvidia, intel = self.look("no_size")
        assert nvidia.memory_total_bytes == 2 * GIB
        assert (intel.memory_total_bytes, intel.confidence) == (None, "low")

    def test_a_virtual_machines_display_is_no_gpu(self) -> None:
        assert self.look("virtual_machine") == []

    def test_without_the_class_there_is_nothing(self) -> None:
        with pytest.raises(NotHere):
            RegistryProbe(Entries({})).look()


class TestApple:
    def look(self, case: str, **more: str) -> Any:
        return AppleProbe(Commands({"sysctl": APPLE[case]["sysctl"], **more}), ram).look()

    @pytest.mark.parametrize("case", ["m1_pro", "m1_max_32", "m2_max_64", "rosetta"])
    def test_the_budget_is_what_metal_recommends(self, case: str) -> None:
        (found,) = self.look(case)
        assert found.memory_total_bytes // MIB == APPLE[case]["budget_mb"]
        assert (found.unified, found.vendor, found.kind) == (True, "apple", "integrated")
        assert found.name.startswith("Apple M")
        assert (found.source, found.confidence) == ("sysctl", "medium")
        assert found.memory_free_bytes == min(9 * GIB, found.memory_total_bytes)

    def test_rosetta_is_seen_through_and_told(self) -> None:
        (found,) = self.look("rosetta")
        assert "Rosetta" in found.driver

    def test_a_limit_that_the_user_has_set_counts(self) -> None:
        told = APPLE["m1_pro"]["sysctl"].replace("wired_limit_mb: 0", "wired_limit_mb: 14336")
        (found,) = AppleProbe(Commands({"sysctl": told}), ram).look()
        assert found.memory_total_bytes == 14 * GIB

    def test_the_load_is_ioregs_where_it_can_be_had(self) -> None:
        (busy,) = self.look("m1_pro", ioreg=APPLE["ioreg"]["output"])
        (silent,) = self.look("m1_pro")
        assert (busy.utilisation_percent, silent.utilisation_percent) == (2, None)

    def test_an_intel_mac_has_no_gpu_of_apples(self) -> None:
        with pytest.raises(NotHere):
            self.look("intel_mac")

    def test_a_virtual_mac_is_believed_less(self) -> None:
        # As GitHub's runners call their chip.
        told = APPLE["m1_pro"]["sysctl"].replace("M1 Pro", "M1 (Virtual)")
        (found,) = AppleProbe(Commands({"sysctl": told}), ram).look()
        assert found.confidence == "low"


class TestProfiler:
    def look(self, case: str) -> Any:
        return ProfilerProbe(Commands({"system_profiler": APPLE[case]["output"]})).look()

    def test_an_intel_mac_has_its_card_and_what_is_inside(self) -> None:
        intel, amd = self.look("profiler")
        assert (intel.kind, intel.unified, intel.memory_total_bytes) == ("integrated", True, None)
        assert (amd.name, amd.vendor, amd.kind) == ("Radeon Pro 560X", "amd", "discrete")
        assert (amd.memory_total_bytes, amd.confidence) == (4 * GIB, "medium")

    def test_apples_own_is_left_to_sysctl(self) -> None:
        assert self.look("profiler_apple") == []


class TestComfy:
    def look(self, case: str, where: str = "") -> Any:
        return ComfyProbe(lambda: {"system": {}, "devices": COMFY[case]["devices"]}, where).look()

    def test_the_name_is_freed_of_what_torch_adds(self) -> None:
        (found,) = self.look("rtx_3090")
        assert (found.name, found.vendor) == ("NVIDIA GeForce RTX 3090", "nvidia")
        assert (found.memory_total_bytes, found.memory_free_bytes) == (25769148416, 24291612160)
        assert (found.source, found.confidence, found.comfyui) == ("comfyui", "high", True)

    def test_directmls_gigabyte_is_unknown(self) -> None:
        (found,) = self.look("directml")
        assert (found.memory_total_bytes, found.vendor, found.confidence) == (None, "other", "low")

    def test_of_a_mac_a_part_of_the_ram_is_the_gpus(self) -> None:
        (found,) = self.look("mac_16")
        assert found.memory_total_bytes == 16 * GIB * 2 // 3
        assert (found.vendor, found.unified) == ("apple", True)

    def test_a_server_on_the_processor_is_no_gpu(self) -> None:
        (found,) = ComfyProbe(lambda: json.loads(RECORDED.read_text("utf-8"))["body"]).look()
        assert (found.kind, found.memory_total_bytes, found.comfyui) == ("cpu", None, True)

    def test_another_machines_gpu_says_whose_it_is(self) -> None:
        (found,) = self.look("rtx_4090_of_five", "https://gpu.example")
        assert found.host == "https://gpu.example"

    def test_no_answer_is_no_problem_and_a_wrong_one_is(self) -> None:
        def raising(problem: Exception) -> Any:
            def stats() -> Any:
                raise problem

            return ComfyProbe(stats)

        with pytest.raises(NotHere):
            raising(error(Code.COMFY_UNAVAILABLE, "refused")).look()
        with pytest.raises(ProbeFailed, match="not ComfyUI"):
            raising(error(Code.COMFY_UNAVAILABLE, "is not ComfyUI", retryable=False)).look()
        with pytest.raises(ProbeFailed, match="401"):
            raising(error(Code.UNAUTHORIZED, "answers 401")).look()
        with pytest.raises(ProbeFailed):
            ComfyProbe(lambda: {"devices": "none"}).look()
