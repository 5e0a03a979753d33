"""A manifest's files in a folder: pulled by many at once, killed, resumed, verified, pruned."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from comfy.models.library import Library, safetensors, sha256
from comfy.models.test_download import rules_for
from fakes.waits import eventually
from pennyreel_comfy.models import Entry, Store
from pennyreel_comfy.models import parts as parts_module
from pennyreel_comfy.models.__main__ import main
from pennyreel_comfy.models.digests import STATE
from pennyreel_comfy.models.manifest import written
from pennyreel_comfy.models.parts import Origin, Part
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import JobCancelled, JobFailed

DATA = safetensors(6_000_000)
SHA = sha256(DATA)
Process = subprocess.Popen[str]
Pulling = Callable[[Entry], Process]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


def entry(url: str, **changes: Any) -> Entry:
    given: dict[str, Any] = {"name": "x.safetensors", "folder": "loras", "url": url, **changes}
    return Entry(**given)


def parts(root: Path) -> list[Path]:
    return sorted((root / STATE / "parts").glob("*.part"))


@pytest.fixture
def pulling(root: Path, library: Library) -> Iterator[Callable[[Entry], Process]]:
    """`python -m pennyreel_comfy.models pull` in processes of their own."""
    started: list[Process] = []
    manifest = root.parent / "models.toml"

    def pull(one: Entry) -> Process:
        manifest.write_text(written(one))
        command = [sys.executable, "-m", "pennyreel_comfy.models", "pull", one.name]
        command += ["--root", str(root), "--manifest", str(manifest), "--allow-host", library.host]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(process)
        return process

    yield pull
    for process in started:
        process.kill()
        process.communicate()


def ended(process: Process) -> tuple[int, str]:
    said, _ = process.communicate(timeout=60)
    return process.returncode, said


def test_what_is_missing_is_downloaded_and_what_is_there_is_not(
    library: Library, root: Path
) -> None:
    one = entry(library.put("/x", DATA), sha256=SHA, bytes=len(DATA))
    two = entry(library.put("/y", safetensors(1000)), name="sub/y.safetensors", folder="vae")
    store = Store(root)
    assert [p.how for p in store.pull([one, two], rules_for(library.host))] == ["downloaded"] * 2
    assert (root / "loras" / "x.safetensors").read_bytes() == DATA
    assert (root / "vae" / "sub" / "y.safetensors").is_file()
    assert [p.how for p in store.pull([one, two], rules_for(library.host))] == ["present"] * 2
    assert len(library.asked) == 2
    assert parts(root) == []


def test_files_come_at_the_same_time(library: Library, root: Path) -> None:
    held = entry(library.put("/x", DATA, hold_at=1_000_000))
    after = entry(library.put("/y", safetensors(1000)), name="y.safetensors")
    pulled: list[Any] = []
    store = Store(root)
    thread = threading.Thread(
        target=lambda: pulled.extend(store.pull([held, after], rules_for(library.host)))
    )
    thread.start()
    eventually(lambda: (root / "loras" / "y.safetensors").is_file())
    assert not (root / "loras" / "x.safetensors").exists()
    library.go_on.set()
    thread.join(30)
    assert [p.how for p in pulled] == ["downloaded"] * 2


def test_one_that_fails_does_not_keep_the_others_from_coming(library: Library, root: Path) -> None:
    bad = entry(library.put("/x", DATA), sha256="0" * 64)
    good = entry(library.put("/y", safetensors(1000)), name="y.safetensors")
    failed, came = Store(root).pull([bad, good], rules_for(library.host))
    assert failed.problem is not None
    assert failed.problem.code == "model_download_failed"
    assert not (root / "loras" / "x.safetensors").exists()
    assert came.path.is_file()


def test_a_different_file_is_replaced_only_by_force(library: Library, root: Path) -> None:
    one = entry(library.put("/x", DATA), sha256=SHA)
    path = root / "loras" / "x.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    (pulled,) = Store(root).pull([one], rules_for(library.host))
    assert pulled.problem is not None
    assert "--force" in pulled.problem.hint
    assert path.read_bytes() == b"mine"
    assert library.asked == []
    (pulled,) = Store(root).pull([one], rules_for(library.host), force=True)
    assert pulled.how == "downloaded"
    assert path.read_bytes() == DATA


def test_a_file_is_read_for_its_checksum_once_until_it_changes(
    library: Library, root: Path
) -> None:
    one = entry(library.put("/x", DATA), sha256=SHA)
    path = root / "loras" / "x.safetensors"
    store = Store(root)
    store.pull([one], rules_for(library.host))
    path.chmod(0o644)
    changed = b"z" * len(DATA)
    stamp = path.stat().st_mtime
    path.write_bytes(changed)
    os.utime(path, (stamp, stamp))  # the same size and time: what is remembered is believed
    assert store.pull([one], rules_for(library.host))[0].how == "present"
    os.utime(path, (stamp + 5, stamp + 5))
    assert store.pull([one], rules_for(library.host))[0].how == "failed"


def test_verify_reads_every_file_anew(library: Library, root: Path) -> None:
    good = entry(library.put("/x", DATA), sha256=SHA)
    other = entry(library.put("/y", safetensors(1000)), name="y.safetensors")
    gone = entry(library.put("/z", DATA), name="z.safetensors")
    store = Store(root)
    store.pull([good, other], rules_for(library.host))

    def verdicts() -> list[str]:
        entries = [good, other, gone]
        found = store.verify(entries, deadline=Deadline(30), cancel=CancelToken())
        return [one.verdict for one in found]

    assert verdicts() == ["good", "unpinned", "missing"]
    path = root / "loras" / "x.safetensors"
    stamp = path.stat().st_mtime
    path.write_bytes(b"z" * len(DATA))
    os.utime(path, (stamp, stamp))
    assert verdicts() == ["different", "unpinned", "missing"]


def test_a_cancelled_pull_keeps_what_came_and_goes_on_later(library: Library, root: Path) -> None:
    one = entry(library.put("/x", DATA, hold_at=4_000_000), sha256=SHA)
    token = CancelToken()

    def cancel() -> None:
        eventually(lambda: any(p.stat().st_size for p in parts(root)))
        token.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(JobCancelled):
        Store(root).pull([one], rules_for(library.host, cancel=token))
    thread.join()
    library.files["/x"].hold_at = None
    library.asked.clear()
    Store(root).pull([one], rules_for(library.host))
    assert library.asked[0].start > 0
    assert (root / "loras" / "x.safetensors").read_bytes() == DATA


def test_a_killed_download_is_gone_on_with_by_the_next(
    library: Library, root: Path, pulling: Pulling
) -> None:
    one = entry(library.put("/x", DATA, hold_at=4_000_000), sha256=SHA, bytes=len(DATA))
    process = pulling(one)
    eventually(lambda: any(p.stat().st_size > 2_000_000 for p in parts(root)))
    process.send_signal(signal.SIGKILL)
    ended(process)
    assert not (root / "loras").exists()
    library.go_on.set()
    library.asked.clear()
    code, said = ended(pulling(one))
    assert (code, "downloaded" in said) == (0, True), said
    assert library.asked[0].start > 2_000_000
    assert (root / "loras" / "x.safetensors").read_bytes() == DATA
    assert parts(root) == []


def test_two_processes_download_a_file_once(library: Library, pulling: Pulling) -> None:
    one = entry(library.put("/x", DATA, hold_at=4_000_000), sha256=SHA)
    first = pulling(one)
    assert library.held.wait(30)
    second = pulling(one)
    # Its second thread is the one that asks for the file.
    eventually(lambda: len(list(Path(f"/proc/{second.pid}/task").iterdir())) > 1)
    library.go_on.set()
    results = sorted(ended(process)[1].split()[0] for process in (first, second))
    assert results == ["downloaded", "present"]
    assert library.count("/x") == 1


def test_prune_removes_parts_that_nobody_works_on(library: Library, root: Path) -> None:
    left = entry(library.put("/x", DATA, cuts=[2_000_000, 0, 0]), name="left.safetensors")
    busy = entry(library.put("/y", DATA, hold_at=4_000_000), name="busy.safetensors")
    store = Store(root)
    store.pull([left], rules_for(library.host))
    thread = threading.Thread(target=store.pull, args=([busy], rules_for(library.host)))
    thread.start()
    assert library.held.wait(20)
    assert len(parts(root)) == 2
    would = store.prune(dry_run=True)
    assert [one.size for one in would] == [2_000_000]
    assert len(parts(root)) == 2
    assert store.prune() == would
    assert len(parts(root)) == 1
    library.go_on.set()
    thread.join(30)
    assert (root / "loras" / "busy.safetensors").read_bytes() == DATA
    assert [p.name for p in (root / STATE / "parts").iterdir() if p.suffix != ".lock"] == []


def test_a_folder_that_cannot_be_written_to_is_told(library: Library, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    one = entry(library.put("/x", DATA))
    (pulled,) = Store(tmp_path / "file" / "models").pull([one], rules_for(library.host))
    assert pulled.problem is not None
    assert pulled.problem.code == "disk_full"


def test_a_folder_that_is_only_read_serves_what_it_has(
    library: Library, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = entry(library.put("/x", DATA, cuts=[2_000_000, 0, 0]), sha256=SHA)
    store = Store(root)
    store.pull([one], rules_for(library.host))
    (root / "loras").mkdir()
    (root / "loras" / "x.safetensors").write_bytes(DATA)

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    # What root may not do here is mount; this is what the system says there.
    monkeypatch.setattr(FileLock, "acquire", read_only)
    assert [p.how for p in store.pull([one], rules_for(library.host))] == ["present"]
    (other,) = store.pull([entry(one.url, name="y.safetensors")], rules_for(library.host))
    assert other.problem is not None
    assert "Read-only" in str(other.problem)
    with pytest.raises(JobFailed, match="Read-only"):
        store.prune()


def test_a_disk_that_takes_no_more_is_told_and_gone_on_from(library: Library, root: Path) -> None:
    one = entry(library.put("/x", DATA), sha256=SHA)
    manifest = root.parent / "models.toml"
    manifest.write_text(written(one))
    command = [sys.executable, "-m", "pennyreel_comfy.models", "pull", one.name]
    command += ["--root", str(root), "--manifest", str(manifest), "--allow-host", library.host]
    # A limit on the size of a file stands for a full disk: a write really fails midway.
    said = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -f 4000 && exec "$@"', "sh", *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (said.returncode, "disk_full" in said.stderr) == (1, True), said.stderr
    assert not (root / "loras" / "x.safetensors").exists()
    library.asked.clear()
    assert Store(root).pull([one], rules_for(library.host))[0].how == "downloaded"
    assert library.asked[0].start > 1_000_000
    assert (root / "loras" / "x.safetensors").read_bytes() == DATA


def test_two_downloads_are_not_promised_the_same_room(
    library: Library, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = entry(library.put("/x", DATA, hold_at=4_000_000))
    after = entry(library.put("/y", DATA), name="y.safetensors")
    store, pulled = Store(root), list[Any]()

    def pull(one: Entry) -> None:
        pulled.extend(store.pull([one], rules_for(library.host)))

    thread = threading.Thread(target=pull, args=(held,))
    thread.start()
    assert library.held.wait(30)
    # Room for one of them, whatever else writes to this disk.
    little = shutil.disk_usage(root)._replace(free=7_000_000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: little)
        patch.setattr(parts_module, "MIN_FREE_BYTES", 0)
        pull(after)
    library.go_on.set()
    thread.join(30)
    assert [p.how for p in pulled] == ["failed", "downloaded"]
    assert pulled[0].problem.code == "disk_full"
    pull(after)
    assert pulled[2].how == "downloaded"


# Folders on other disks.


@pytest.fixture
def other_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A folder that no rename leads to from `tmp_path`."""
    monkeypatch.setattr(parts_module, "MIN_FREE_BYTES", 0)  # it may be small
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        assert Path(name).stat().st_dev != tmp_path.stat().st_dev
        yield Path(name)


def test_a_folder_may_be_a_link_to_another_disk(
    library: Library, root: Path, other_disk: Path
) -> None:
    one = entry(library.put("/x", DATA, cuts=[2_000_000, 0, 0]), sha256=SHA)
    root.mkdir()
    (root / "loras").symlink_to(other_disk)
    store = Store(root)
    assert store.pull([one], rules_for(library.host))[0].how == "failed"
    assert parts(root) == []
    assert [left.size for left in store.prune(dry_run=True)] == [2_000_000]
    library.asked.clear()
    assert store.pull([one], rules_for(library.host))[0].how == "downloaded"
    assert library.asked[0].start == 2_000_000
    assert (other_disk / "x.safetensors").read_bytes() == DATA
    assert store.prune() == []


def test_a_mount_that_nobody_foresaw_is_copied_across(other_disk: Path, tmp_path: Path) -> None:
    target = other_disk / "deep" / "x.safetensors"
    with Part(tmp_path / "x.part", deadline=Deadline(30), cancel=CancelToken()) as part:
        part.begin(Origin.of("http://host/x"))
        part.add(DATA)
        part.finish()
        mode = part.path.stat().st_mode & 0o777
        part.move(target)
    assert target.read_bytes() == DATA
    assert target.stat().st_mode & 0o777 == mode  # not a temporary file's, which is its owner's
    assert list(target.parent.iterdir()) == [target]
    assert list(tmp_path.iterdir()) == []


# python -m pennyreel_comfy.models


def test_the_image_build_pulls_nothing_for_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pull", "none", "--root", str(tmp_path / "models")]) == 0
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "models").exists()


def test_the_image_build_fails_where_a_model_does_not_come(
    library: Library, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "m.toml"
    manifest.write_text(written(entry(f"http://{library.host}/nothing", sets=("mine",))))
    given = ["--root", str(tmp_path / "m"), "--manifest", str(manifest)]
    assert main(["pull", "mine", *given, "--allow-host", library.host]) == 1
    assert "404" in capsys.readouterr().err
    assert main(["pull", "mine", *given]) == 1
    assert "model_refused" in capsys.readouterr().err
    assert main(["pull", "mime", *given]) == 1
    assert "'mime'" in capsys.readouterr().err


def test_an_image_gets_only_what_it_asked_for_of_a_builds_downloads(
    library: Library, tmp_path: Path
) -> None:
    manifest, kept, image = tmp_path / "m.toml", tmp_path / "kept", tmp_path / "image"
    one = entry(library.put("/x", DATA), sha256=SHA, sets=("one",))
    two = entry(library.put("/y", safetensors(99)), name="y.safetensors", sets=("two",))
    manifest.write_text(written(one) + written(two))
    given = ["--root", str(kept), "--manifest", str(manifest), "--allow-host", library.host]
    assert main(["pull", "two", *given]) == 0
    assert main(["pull", "one", *given, "--copy-to", str(image)]) == 0
    found = [p for p in image.rglob("*") if p.is_file() and STATE not in p.parts]
    assert found == [image / "loras" / "x.safetensors"]
    assert not list((image / STATE).glob("parts/*"))
    stamp = found[0].stat().st_mtime
    found[0].write_bytes(b"z" * len(DATA))
    os.utime(found[0], (stamp, stamp))  # its sum is known there: it is not read again
    assert Store(image).pull([one], rules_for(library.host))[0].how == "present"
    assert library.count("/x") == 1


def test_a_token_comes_from_a_file_and_is_never_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("HF-SECRET\n")
    given = ["pull", "none", "--root", str(tmp_path / "m"), "--hf-token-file"]
    assert main([*given, str(secret)]) == 0
    assert main([*given, str(tmp_path / "no")]) == 1
    seen = capsys.readouterr()
    assert "HF-SECRET" not in seen.out + seen.err
