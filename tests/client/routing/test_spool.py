"""A job's request on the disk: all of it comes back, only its user reads it, it goes in time."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest

from pennyreel.backends.base import Prompt, Work
from pennyreel.errors import BadRequest, SetupNeeded
from pennyreel.need import Need
from pennyreel.sources import Source
from pennyreel.spool import KEPT_S, OTHERS_KEPT_S, Order, Spool
from pennyreel_contract import ModelNeed, Outputs

JOB = "a" * 32
IMAGE = Source("first.png", data=b"\x89PNG\x00\xff")
NEED = Need(
    kind="video", workflow=True, template="animatediff-v3", no_template="why", width=512,
    height=256, seconds=2.5, frames=16, fps=8.0, format="mp4", audio=True, image_input=True,
    lora=True, negative_prompt=True, seed=True, steps=20, models=(("vae", "a.pt"), ("loras", "b")),
    node_packs=("vhs",), classes=("A", "B"), vram_min_bytes=1, vram_good_bytes=2, profile="p",
    size=1.5,
)  # fmt: skip
PROMPT = Prompt(
    "a boat \ud83d", "video", "rain", 512, 256, 2.5, 16, 8.0, "mp4", IMAGE, audio=True
)  # fmt: skip
WORK = Work(
    attempt_id="b" * 32,
    graph={"1": {"class_type": "X", "inputs": {"n": 1, "of": ["2", 0], "text": "é"}}},
    sources=(
        IMAGE,
        Source("mask.png", path=Path("/somewhere/mask.png")),
        Source("far.png", url="https://example.com/far.png?sig=1"),
        Source("there.png", s3="s3://bucket/there.png"),
    ),
    outputs=Outputs(nodes=("2",), kinds=("image",), temp=True),
    models=(ModelNeed(folder="vae", name="a.pt", url="https://example.com/a.pt"),),
    seed=2**64 - 1,
    timeout_s=12.5,
    queue_s=77.0,
    preview=True,
    metadata={"tag": ["x", 1]},
    prompt=PROMPT,
    need=NEED,
)
HERE = "/home/ledger.db"
TERMS = {"max_cost": "0.10", "forbid": ("veo", "gemini"), "private": True, "project": "p"}


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "home" / "spool")


def test_every_field_of_a_request_comes_back(spool: Spool, tmp_path: Path) -> None:
    spool.put(JOB, Order(WORK, tmp_path / "out", TERMS, HERE))  # type: ignore[arg-type]
    told = spool.get(JOB)
    for one in fields(Work):
        kept, given = getattr(told.work, one.name), getattr(WORK, one.name)
        if one.name != "prompt":
            assert kept == given, one.name
        assert given != one.default, f"{one.name} is not tested"
    for one in fields(Prompt):
        assert getattr(told.work.prompt, one.name) == getattr(PROMPT, one.name), one.name
    for one in fields(Need):
        assert getattr(NEED, one.name) != one.default or one.name == "kind", one.name
    assert hash(told.work.need) == hash(NEED)
    assert told.work.request() == WORK.request()
    assert told.out_dir == tmp_path / "out"
    assert told.terms == {**TERMS, "forbid": ["veo", "gemini"]}
    assert told.ledger == HERE


def test_a_folder_for_files_is_kept_as_it_was_meant(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spool.put(JOB, Order(WORK, Path("out")))
    assert spool.get(JOB).out_dir == tmp_path / "out"


@pytest.mark.skipif(os.name == "nt", reason="POSIX modes")
def test_only_its_user_may_read_it(spool: Spool) -> None:
    before = os.umask(0)
    try:
        spool.put(JOB, Order(WORK, Path("out")))
        held = spool.hold(JOB)
        modes = {stat.S_IMODE(file.stat().st_mode) for file in spool.folder.iterdir()}
        assert modes == {0o600}
        assert stat.S_IMODE(spool.folder.stat().st_mode) == 0o700
    finally:
        os.umask(before)
    assert held is not None
    held.release(ended=True)
    assert [file.suffix for file in spool.folder.iterdir()] == [".json"]


def test_what_nobody_came_back_for_goes(spool: Spool) -> None:
    spool.put("old", Order(WORK, Path("out"), ledger=HERE))
    long_ago = time.time() - KEPT_S - 60
    os.utime(spool.folder / "old.json", (long_ago, long_ago))
    spool.put(JOB, Order(WORK, Path("out"), ledger=HERE))
    assert [file.name for file in spool.folder.iterdir()] == [f"{JOB}.json"]
    spool.remove(JOB)
    spool.remove(JOB)
    with pytest.raises(BadRequest, match="is not on this machine"):
        spool.get(JOB)


@pytest.mark.parametrize("ledger", ["/elsewhere/ledger.db", ""])
def test_requests_of_other_ledgers_and_of_none_stay_longer(spool: Spool, ledger: str) -> None:
    spool.put("old", Order(WORK, Path("out"), ledger=ledger))
    assert spool.ledger("old") == ledger
    file = spool.folder / "old.json"
    for age_s, kept in ((KEPT_S + 60, True), (OTHERS_KEPT_S + 60, False)):
        os.utime(file, (time.time() - age_s, time.time() - age_s))
        spool.prune(HERE)
        spool.prune("")
        assert file.exists() == kept
    assert spool.ledger("old") is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"out_dir": "x"}', "\x00"])
def test_a_damaged_request_is_as_good_as_none(spool: Spool, content: str) -> None:
    spool.folder.mkdir(parents=True)
    (spool.folder / f"{JOB}.json").write_text(content)
    with pytest.raises(BadRequest, match="is not on this machine"):
        spool.get(JOB)


@pytest.mark.parametrize("name", ["../x", "", "a/b", "a" * 65, ".", "a\n"])
def test_no_name_leads_out_of_the_folder(spool: Spool, name: str) -> None:
    for call in (spool.get, spool.hold, spool.remove):
        with pytest.raises(BadRequest, match="no job's id"):
            call(name)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's full device")
def test_a_full_disk_is_told_before_anything_is_sent(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens = os.open

    def full(path: str, flags: int, mode: int = 0o777) -> int:
        return opens(path if not str(path).endswith(".tmp") else "/dev/full", flags & ~os.O_EXCL)

    spool.folder.mkdir(parents=True)
    monkeypatch.setattr(os, "open", full)
    with pytest.raises(SetupNeeded, match=r"No space left on device.*it was not sent") as told:
        spool.put(JOB, Order(WORK, Path("out")))
    assert "PENNYREEL_HOME" in told.value.hint
    assert list(spool.folder.iterdir()) == []


def test_a_folder_that_is_a_file_is_told(spool: Spool) -> None:
    spool.folder.parent.mkdir(parents=True)
    spool.folder.write_text("")
    for call in (lambda: spool.put(JOB, Order(WORK, Path("out"))), lambda: spool.hold(JOB)):
        with pytest.raises(SetupNeeded, match="cannot be kept in"):
            call()


def test_one_at_a_time_has_the_right_to_drive_a_job(spool: Spool) -> None:
    held = spool.hold(JOB)
    assert held is not None
    assert spool.hold(JOB) is None, "not in this process"
    code = f"""
import sys
from pathlib import Path
from pennyreel.spool import Spool
held = Spool(Path({str(spool.folder)!r})).hold({JOB!r})
print(held is not None, flush=True)
sys.stdin.read()
"""
    other = subprocess.run(
        [sys.executable, "-c", code], stdout=-1, text=True, stdin=subprocess.DEVNULL, check=True
    )
    assert other.stdout == "False\n", "nor in another"
    held.release(ended=False)
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "True\n"
        assert spool.hold(JOB) is None
        child.kill()
    again = spool.hold(JOB)
    assert again is not None, "it went with its process"
    again.release(ended=True)
    assert list(spool.folder.glob("*.lock")) == []
