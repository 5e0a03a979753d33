"""Before the first job: the warm-up leaves nothing behind, and what is prefetched is in memory."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from fakes.waits import eventually
from pennyreel_comfy.http import ComfyHttp
from pennyreel_comfy.install import Installation
from pennyreel_comfy.process import CHILD, ComfyProcess
from pennyreel_comfy.session import Session
from pennyreel_comfy.templates import load
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import JobCancelled
from pennyreel_worker import prefetch
from pennyreel_worker.comfy import Comfy
from pennyreel_worker.prefetch import CHUNK_BYTES, Prefetch, find
from pennyreel_worker.warmup import warm_up
from worker.support import node, settings_of, until

MIB = 1 << 20


def write(folder: Path, graph: dict[str, Any]) -> str:
    path = folder / "warm.json"
    path.write_text(json.dumps(graph), "utf-8")
    return str(path)


def asked(comfy: Comfy) -> dict[str, Any]:
    with requests.Session() as session:
        session.trust_env = False
        return dict(session.get(f"{comfy.process.url}/fake", timeout=10).json())


def run(comfy: Comfy, cancel: CancelToken | None = None, **env: str) -> float | None:
    return warm_up(comfy.ready(Deadline(60)), settings_of(**env), comfy.folders, cancel)


def left(comfy: Comfy) -> list[Path]:
    folders = (comfy.folders["input"], comfy.folders["output"])
    return [path for folder in folders for path in folder.rglob("*")]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(
        "pennyreel_worker.warmup.log.warning", lambda text, *args, **_: lines.append(text % args)
    )
    return lines


def test_a_warm_up_runs_once_and_leaves_nothing(comfy: Comfy, tmp_path: Path) -> None:
    graph = {
        "1": node("SaveImage", filename_prefix="warm/shot"),
        "2": node("FakeOutput", filename="stray.png"),  # past any prefix
    }
    before = len(asked(comfy)["prompts"]) if comfy.ready(Deadline(60)) else 0
    seconds = run(comfy, PENNYREEL_WARMUP=write(tmp_path, graph))
    seen = asked(comfy)
    assert seconds is not None
    assert seconds > 0
    assert len(seen["prompts"]) == before + 1
    prompt = seen["prompts"][-1]
    assert prompt["graph"]["1"]["inputs"]["filename_prefix"].startswith("warmup-")
    assert prompt["id"] not in seen["history"]
    assert ["POST", "/free"] in seen["requests"]  # its cache names the stray file no more
    assert left(comfy) == []


TEMPLATE = """
title = "warm"
kind = "image"
[needs]
comfyui = "0.3"
vram_min_bytes = 0
vram_comfortable_bytes = 0
[parameters.prefix]
type = "string"
targets = ["1.filename_prefix"]
"""


def test_a_template_warms_up_with_its_defaults(
    comfy: Comfy, tmp_path: Path, said: list[str]
) -> None:
    (tmp_path / "warm.json").write_text(json.dumps({"1": node("SaveImage", filename_prefix="a")}))
    (tmp_path / "warm.toml").write_text(TEMPLATE + 'default = "b"\n')
    env = {"PENNYREEL_WARMUP": "warm", "PENNYREEL_TEMPLATES": str(tmp_path)}
    assert run(comfy, **env) is not None
    assert asked(comfy)["prompts"][-1]["graph"]["1"]["inputs"]["filename_prefix"].endswith("/b")
    (tmp_path / "warm.toml").write_text(TEMPLATE)
    assert run(comfy, **env) is None
    assert "prefix" in said[-1]


def test_no_warm_up_is_the_default(comfy: Comfy) -> None:
    before = len(asked(comfy)["prompts"]) if comfy.ready(Deadline(60)) else 0
    assert run(comfy) is None
    assert len(asked(comfy)["prompts"]) == before


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        ({"1": node("NoSuchNode")}, "unknown_node"),
        ({"1": node("FakeError")}, "execution_failed"),
        ({"1": node("FakeMemory")}, "out_of_memory"),
        ({"1": node("FakeCrash")}, "comfy_crashed"),
        ({"nodes": [], "links": []}, "ui_format"),
    ],
)
def test_a_warm_up_that_fails_says_why_and_the_worker_goes_on(
    comfy: Comfy, tmp_path: Path, said: list[str], graph: dict[str, Any], reason: str
) -> None:
    path = write(tmp_path, graph)
    assert run(comfy, PENNYREEL_WARMUP=path) is None
    assert reason in said[-1]
    assert path in said[-1]
    assert left(comfy) == []
    good = write(tmp_path, {"1": node("SaveImage", filename_prefix="a")})
    assert run(comfy, PENNYREEL_WARMUP=good) is not None


@pytest.mark.parametrize("name", ["no-such-template", "no/such.json"])
def test_a_warm_up_that_is_not_there_is_named(comfy: Comfy, said: list[str], name: str) -> None:
    assert run(comfy, PENNYREEL_WARMUP=name) is None
    assert name in said[-1]


def test_a_warm_up_has_a_deadline(comfy: Comfy, tmp_path: Path, said: list[str]) -> None:
    path = write(tmp_path, {"1": node("FakeSleep", seconds=60)})
    assert run(comfy, PENNYREEL_WARMUP=path, PENNYREEL_COMFYUI_START_S="0.5") is None
    assert "timeout" in said[-1]
    eventually(lambda: asked(comfy)["running"] is None)


def test_a_worker_that_is_told_to_stop_does_not_wait_for_its_warm_up(
    comfy: Comfy, tmp_path: Path
) -> None:
    path = write(tmp_path, {"1": node("FakeSleep", seconds=60)})
    stop = CancelToken()
    comfy.ready(Deadline(60))
    timer = threading.Thread(
        target=lambda: (eventually(lambda: asked(comfy)["running"] is not None), stop.cancel())
    )
    timer.start()
    with pytest.raises(JobCancelled):
        run(comfy, stop, PENNYREEL_WARMUP=path)
    timer.join()
    eventually(lambda: asked(comfy)["running"] is None)


@pytest.mark.real
@pytest.mark.timeout(240)
def test_a_real_comfyui_is_warmed_up_by_a_template(tmp_path: Path) -> None:
    root = Path(__file__).parents[2] / "build" / "comfyui"
    found = Installation.load(Path(os.environ.get("PENNYREEL_TEST_COMFYUI", root)))
    assert found is not None, "run `make test`, which installs ComfyUI"
    folders = {name: tmp_path / name for name in ("input", "output", "temp", "user")}
    for folder in folders.values():
        folder.mkdir()

    def command(port: int) -> list[str]:
        argv = found.command(
            port,
            extra=(
                *("--input-directory", str(folders["input"])),
                *("--output-directory", str(folders["output"])),
                *("--temp-directory", str(tmp_path)),
                *("--user-directory", str(folders["user"])),
                *("--database-url", "sqlite:///:memory:"),
            ),
        )
        return [argv[0], str(CHILD), *argv[1:]]

    process = ComfyProcess(command, env=found.env(), cwd=tmp_path)
    process.start()
    try:
        process.wait_ready(Deadline(180))
        with Session(ComfyHttp(process.url)) as session:
            settings = settings_of(PENNYREEL_WARMUP="hello-video")
            assert warm_up(session, settings, folders) is not None
            until(lambda: any("Prompt executed" in line for line in process.tail()))
            with requests.Session() as plain:
                plain.trust_env = False
                assert plain.get(f"{process.url}/history", timeout=10).json() == {}
        assert [p for f in ("input", "output") for p in folders[f].rglob("*")] == []
    finally:
        process.stop()


# Prefetch.


def resident(path: Path) -> float:
    """The share of a file's pages that are in memory, by mincore(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # untouched: reads nothing
        pages = -(-len(mapped) // mmap.PAGESIZE)
        flags = (ctypes.c_ubyte * pages)()
        first = ctypes.c_char.from_buffer(mapped)
        size = ctypes.c_size_t(len(mapped))
        failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(first)), size, flags)
        del first
        mapped.close()
    assert not failed, os.strerror(ctypes.get_errno())
    return sum(flag & 1 for flag in flags) / pages


def cold(path: Path, size: int) -> Path:
    """A file on disk, none of which is in memory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(os.urandom(size))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if resident(path) > 0:
        pytest.skip("this file system keeps its files in memory")
    return path


def test_what_is_prefetched_is_in_memory(tmp_path: Path) -> None:
    files = [cold(tmp_path / f"{n}.safetensors", 3 * CHUNK_BYTES + 5) for n in range(2)]
    reader = Prefetch(files)
    reader.start()
    assert reader.wait(60)
    assert [resident(path) for path in files] == [1.0, 1.0]
    assert reader.bytes == 2 * (3 * CHUNK_BYTES + 5)
    assert reader.seconds > 0
    assert reader.skipped == []


def system(root: Path, available: int, *, limit: int | str = "max", used: int = 0) -> Path:
    """A /proc and a /sys that say how much memory there is."""
    (root / "proc").mkdir()
    (root / "sys/fs/cgroup").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable:  {available // 1024} kB\n")
    (root / "sys/fs/cgroup/memory.max").write_text(f"{limit}\n")
    (root / "sys/fs/cgroup/memory.current").write_text(f"{used}\n")
    return root


def few(root: Path) -> Path:
    return system(root, 50 * MIB)


def full(root: Path) -> Path:
    return system(root, 1 << 40, limit=100 * MIB, used=50 * MIB)


@pytest.mark.parametrize("memory", [few, full], ids=["little is free", "the container has a limit"])
def test_no_more_is_read_than_there_is_memory_for(
    tmp_path: Path, memory: Callable[[Path], Path]
) -> None:
    """50 MiB, of which 16 are kept: one file of 24 fits, the second does not."""
    files = [cold(tmp_path / f"{n}.safetensors", 24 * MIB) for n in range(2)]
    root = tmp_path / "root"
    root.mkdir()
    where = memory(root)
    reader = Prefetch(files, reserve_bytes=16 * MIB, system=where)
    if memory is full:  # what has been read is in use, as the kernel would count it
        used = where / "sys/fs/cgroup/memory.current"
        reader._room = lambda: (  # type: ignore[method-assign]
            used.write_text(str(50 * MIB + reader.bytes)), Prefetch._room(reader)
        )[1]  # fmt: skip
    reader.start()
    assert reader.wait(60)
    assert reader.skipped == files[1:]
    assert (resident(files[0]), resident(files[1])) == (1.0, 0.0)
    assert reader.bytes == 24 * MIB


def test_unknown_memory_is_none(tmp_path: Path) -> None:
    path = cold(tmp_path / "a.safetensors", MIB)
    reader = Prefetch([path], system=tmp_path / "nowhere")
    reader.start()
    assert reader.wait(60)
    assert (reader.bytes, resident(path)) == (0, 0.0)


def test_an_older_kernels_limit_counts_too(tmp_path: Path) -> None:
    folder = tmp_path / "sys/fs/cgroup/memory"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text("1000\n")
    (folder / "memory.usage_in_bytes").write_text("400\n")
    assert prefetch.unclaimed(tmp_path) == 600


def test_a_prefetch_stops_when_the_worker_does_and_has_low_priority(tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a hole: no disk is used
    ours = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    reader = Prefetch([path])
    reader._room = lambda: 1 << 50  # type: ignore[method-assign]
    reader.start()
    eventually(lambda: reader.bytes > 0)
    assert reader._thread.native_id is not None
    assert os.getpriority(os.PRIO_PROCESS, reader._thread.native_id) > ours
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == ours
    reader.stop()
    assert not reader._thread.is_alive()
    assert 0 < reader.bytes < 1 << 40
    assert reader.skipped == [path]


def test_a_file_that_cannot_be_read_does_not_keep_the_next_one(tmp_path: Path) -> None:
    good = cold(tmp_path / "b.safetensors", MIB)
    reader = Prefetch([tmp_path / "gone.safetensors", good])
    reader.start()
    assert reader.wait(60)
    assert reader.skipped == [tmp_path / "gone.safetensors"]
    assert resident(good) == 1.0


def test_nothing_to_prefetch_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    reader = Prefetch([])
    reader.start()
    assert reader.wait(60)
    assert caplog.text == ""
    reader.stop()


def test_looking_for_files_on_a_slow_or_lost_volume_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on, told = threading.Event(), []
    monkeypatch.setattr(prefetch.log, "warning", lambda text, *args, **_: told.append(text % args))

    def look() -> Iterator[Path]:
        assert go_on.wait(60)
        raise OSError(errno.ESTALE, "Stale file handle")
        yield Path()

    reader = Prefetch(look())
    reader.start()
    assert not reader.wait(0)
    go_on.set()
    assert reader.wait(60)
    assert told == ["prefetch: looking for the files failed (Stale file handle)"]
    assert reader.bytes == 0


def test_files_are_found_by_name_folder_and_template(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for path, size in (
        (one / "checkpoints/small.safetensors", 1),
        (two / "checkpoints/large.safetensors", 9),
        (two / "checkpoints/small.safetensors", 1),
        (one / "loras/style.safetensors", 1),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    found = find(["loras/style.safetensors", "checkpoints", "vae"], [one, two])
    assert [str(p.relative_to(tmp_path)) for p in found.files] == [
        "one/loras/style.safetensors",
        "two/checkpoints/large.safetensors",
        "one/checkpoints/small.safetensors",
    ]
    assert found.missing == ("vae",)
    first = find(["checkpoints/small.safetensors"], [one, two])
    assert [p.parent.parent.name for p in first.files] == ["one"]
    assert find(["../one/loras"], [two]).files == ()


def test_a_templates_models_are_found_and_what_is_missing_is_named(tmp_path: Path) -> None:
    (model, *_) = load("sd15-image").models
    path = tmp_path / model.folder / model.name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    assert find(["template:sd15-image"], [tmp_path]).files[0] == path.resolve()
    missing = find(["template:sdxl-image", "template:no-such"], [tmp_path]).missing
    assert missing[-1] == "template:no-such"
    assert missing[0].startswith("checkpoints/")
