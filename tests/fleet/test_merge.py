"""Several sources tell of one GPU, and it is one device."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from fleet.machines import GIB, Entries, load
from pennyreel.fleet.devices.comfy import ComfyProbe
from pennyreel.fleet.devices.merge import doubts, merge
from pennyreel.fleet.devices.model import Device
from pennyreel.fleet.devices.registry import RegistryProbe

NAME = "NVIDIA GeForce RTX 3090"
COMFY = load("comfyui")


def nvml(**changes: Any) -> Device:
    base = Device(
        NAME, "nvidia", "discrete", 24 * GIB, 20 * GIB, unified=False, utilisation_percent=3,
        index=0, source="nvml", confidence="high", driver="610.57.04", bus="0000:01:00.0",
    )  # fmt: skip
    return replace(base, **changes)


def sysfs(**changes: Any) -> Device:
    base = Device(
        "NVIDIA GPU 0x2204", "nvidia", source="sysfs", confidence="low", driver="nvidia",
        bus="0000:01:00.0",
    )  # fmt: skip
    return replace(base, **changes)


def comfy(case: str = "rtx_3090", where: str = "") -> Device:
    (found,) = ComfyProbe(lambda: {"devices": COMFY[case]["devices"]}, where).look()
    return found


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_strongest_source_speaks_first_in_whatever_order_they_come(
    order: tuple[int, ...],
) -> None:
    three = [nvml(), sysfs(), comfy()]
    (one,) = merge(three[i] for i in order)
    assert (one.name, one.source, one.also) == (NAME, "comfyui", ("nvml", "sysfs"))
    assert one.memory_total_bytes == 25769148416
    assert (one.utilisation_percent, one.bus, one.comfyui) == (3, "0000:01:00.0", True)


def test_two_alike_cards_stay_two() -> None:
    pair = [nvml(), nvml(index=1, bus="0000:02:00.0")]
    lists = [sysfs(), sysfs(bus="0000:02:00.0")]
    found = merge([*pair, *lists, comfy()])
    assert [d.bus for d in found] == ["0000:01:00.0", "0000:02:00.0"]
    assert [d.comfyui for d in found] == [True, False]


def test_a_card_that_only_a_list_names_is_left_out_where_nvidias_tool_answers() -> None:
    gone = sysfs(bus="0000:05:00.0", driver="vfio-pci")
    assert [d.bus for d in merge([nvml(), sysfs(), gone])] == ["0000:01:00.0"]


def test_a_card_whose_driver_does_not_answer_is_told_of() -> None:
    (found,) = merge([sysfs(driver="nouveau")])
    (doubt,) = doubts([found])
    assert "driver does not answer (driver: nouveau)" in doubt
    assert list(doubts(merge([nvml(), sysfs()]))) == []


def test_windows_registry_adds_to_what_nvml_tells() -> None:
    entries = load("registry")["rtx_4090"]["entries"]
    listed = RegistryProbe(Entries(entries)).look()
    told = nvml(name="NVIDIA GeForce RTX 4090", memory_total_bytes=25757220864)
    card, inside = merge([told, *listed])
    assert (card.source, card.also, card.memory_total_bytes) == ("nvml", ("registry",), 25757220864)
    assert (inside.vendor, inside.source) == ("intel", "registry")


def test_directml_runs_on_the_one_gpu_there_is_which_knows_its_size() -> None:
    listed = RegistryProbe(Entries(load("registry")["radeon_r9700"]["entries"])).look()
    (found,) = merge([*listed, comfy("directml")])
    assert (found.name, found.vendor) == ("AMD Radeon AI PRO R9700", "amd")
    assert (found.memory_total_bytes, found.comfyui) == (32 * GIB, True)


def test_directml_on_one_of_two_is_a_device_of_its_own() -> None:
    listed = RegistryProbe(Entries(load("registry")["rtx_4090"]["entries"])).look()
    found = merge([*listed, comfy("directml")])
    assert [d.name for d in found if d.comfyui] == ["GPU"]
    assert len(found) == 3


def test_of_a_mac_sysctl_knows_the_limit_that_counts() -> None:
    apple = Device(
        "Apple M1 Pro", "apple", "integrated", 14 * GIB, 9 * GIB, unified=True, source="sysctl",
        confidence="medium",
    )  # fmt: skip
    (found,) = merge([apple, comfy("mac_16")])
    assert (found.name, found.memory_total_bytes) == ("Apple M1 Pro", 14 * GIB)
    assert (found.source, found.also, found.comfyui) == ("comfyui", ("sysctl",), True)


def test_what_an_apu_shares_is_not_counted_twice() -> None:
    apu = Device(
        "AMD GPU 0x1586", "amd", "integrated", 4 * GIB, shared_bytes=96 * GIB, unified=True,
        source="sysfs", confidence="high", bus="0000:c3:00.0",
    )  # fmt: skip
    # torch counts both parts in; its figure for this chip is that of the thread in sysfs.toml.
    seen = Device(
        "AMD Radeon 8060S Graphics", "amd", "integrated", 96 * GIB, unified=True,
        source="comfyui", confidence="high", comfyui=True,
    )  # fmt: skip
    (found,) = merge([apu, seen])
    assert (found.memory_total_bytes, found.shared_bytes, found.budget_bytes) == (
        96 * GIB, None, 96 * GIB,
    )  # fmt: skip


def test_a_server_elsewhere_is_another_machine() -> None:
    found = merge([nvml(), comfy(where="https://gpu.example")])
    assert [d.host for d in found] == ["https://gpu.example", ""]


def test_a_server_on_the_processor_is_no_part_of_the_gpu() -> None:
    on_cpu = Device("processor", "other", "cpu", source="comfyui", comfyui=True)
    found = merge([nvml(), on_cpu])
    assert [d.kind for d in found] == ["cpu", "discrete"]
    assert list(doubts(found)) == ["the ComfyUI runs on the processor"]


def test_the_same_merged_again_is_the_same() -> None:
    once = merge([nvml(), sysfs(), comfy()])
    assert [replace(d, also=()) for d in merge(once)] == [replace(d, also=()) for d in once]
