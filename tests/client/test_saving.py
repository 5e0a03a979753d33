"""Files arrive whole, under a harmless name that nobody had."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pennyreel import JobCancelled, JobFailed
from pennyreel.saving import PartFile, safe_name
from pennyreel_comfy.waiting import CancelToken


def save(folder: Path, name: str, data: bytes, **known: object) -> Path:
    with PartFile(folder, name) as part:
        part.write(data)
        return part.commit(**known)  # type: ignore[arg-type]


def test_a_file_appears_whole_and_alone(tmp_path: Path) -> None:
    with PartFile(tmp_path / "new" / "folder", "a.png") as part:
        part.write(b"one")
        part.write(b"two")
        assert not list((tmp_path / "new" / "folder").glob("a*"))
        path = part.commit(sha256=hashlib.sha256(b"onetwo").hexdigest(), size=6)
    assert path.read_bytes() == b"onetwo"
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]
    assert path.is_absolute()


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    names = [save(tmp_path, "clip.mp4", b"%d" % n).name for n in range(3)]
    assert names == ["clip.mp4", "clip-1.mp4", "clip-2.mp4"]
    assert (tmp_path / "clip.mp4").read_bytes() == b"0"


def test_many_at_once_get_a_name_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        paths = list(pool.map(lambda n: save(tmp_path, "x", b"%d" % n), range(64)))
    assert sorted(int(p.read_bytes()) for p in paths) == list(range(64))


def test_a_file_system_without_hard_links_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: object) -> None:
        raise OSError("not here")

    monkeypatch.setattr(os, "link", no_link)
    assert [save(tmp_path, "a.b", b"x").name for _ in range(2)] == ["a.b", "a-1.b"]
    assert {p.name for p in tmp_path.iterdir()} == {"a.b", "a-1.b"}


@pytest.mark.parametrize("known", [{"sha256": "0" * 64}, {"size": 99}])
def test_a_damaged_file_is_not_kept(tmp_path: Path, known: dict[str, object]) -> None:
    with pytest.raises(JobFailed) as caught:
        save(tmp_path, "a", b"data", **known)
    assert caught.value.code == "storage_failed"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError])
def test_an_interrupted_transfer_leaves_nothing(tmp_path: Path, kind: type[BaseException]) -> None:
    def interrupted() -> None:
        with PartFile(tmp_path, "a") as part:
            part.write(b"half")
            raise kind

    with pytest.raises(kind):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_a_cancelled_job_stops_in_mid_file(tmp_path: Path) -> None:
    cancel = CancelToken()
    with PartFile(tmp_path, "a", check=cancel.check) as part:
        part.write(b"half")
        cancel.cancel()
        with pytest.raises(JobCancelled):
            part.write(b"rest")
    assert not list(tmp_path.iterdir())


def test_a_transfer_that_begins_anew_forgets_the_first(tmp_path: Path) -> None:
    with PartFile(tmp_path, "a") as part:
        part.write(b"longer than the second")
        part.restart()
        part.write(b"second")
        assert part.commit(sha256=hashlib.sha256(b"second").hexdigest()).read_bytes() == b"second"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JobFailed, match="file"), PartFile(tmp_path / "file", "a"):
        pass


@pytest.mark.parametrize(
    ("hostile", "safe"),
    [
        ("../../etc/passwd", "passwd"),
        ("..\\..\\windows\\x.dll", "x.dll"),
        ("C:\\a\\b.png", "b.png"),
        ("/abs/x.png", "x.png"),
        ("..", "output"),
        ("", "output"),
        (".bashrc", "bashrc"),
        ("a\x00b\n.png", "a_b_.png"),
        ("con.png", "_con.png"),
        ("NUL", "_NUL"),
        ("evil\u202egnp.exe", "evil_gnp.exe"),
        ("a:b*?.png", "a_b__.png"),
        ("clip_00001_.mp4", "clip_00001_.mp4"),
    ],
)
def test_hostile_names_become_harmless(hostile: str, safe: str) -> None:
    assert safe_name(hostile) == safe


@given(st.text(max_size=400))
def test_any_name_becomes_one_plain_short_name(name: str) -> None:
    safe = safe_name(name)
    assert safe
    assert len(safe.encode("utf-8", "surrogatepass")) <= 200
    assert not set(safe) & set('/\\\x00\n:*?"<>|')
    assert safe.strip(" .") == safe
    assert safe_name(safe) == safe


def test_half_a_character_is_no_reason_to_fail() -> None:
    assert safe_name("\ud800.png") == "_.png"
