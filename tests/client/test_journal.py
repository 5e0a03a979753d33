"""What was sent is on disk before it is sent."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pennyreel import SetupNeeded
from pennyreel.journal import Journal


def intend(journal: Journal, job_id: str = "job-1") -> object:
    return journal.intend(
        job_id, attempt_id="attempt-1", backend="b", target="t", request_sha256="0" * 64
    )


def test_an_entry_goes_from_intent_to_its_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "jobs")
    entry = journal.intend("j", attempt_id="a", backend="b", target="t", request_sha256="0")
    assert entry.state == "intent"
    assert journal.get("j") == entry
    entry = journal.update(entry, state="submitted", handle="b:t/1@a")
    entry = journal.update(entry, state="done")
    assert journal.get("j") == entry
    assert (entry.state, entry.handle) == ("done", "b:t/1@a")
    assert [p.name for p in (tmp_path / "jobs").iterdir()] == ["j.json"]


def test_a_stranger_s_or_a_broken_file_is_no_entry(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    intend(journal)
    (tmp_path / "torn.json").write_text('{"job_id": ')
    (tmp_path / "list.json").write_text("[]")
    data = json.loads((tmp_path / "job-1.json").read_text())
    (tmp_path / "newer.json").write_text(json.dumps({**data, "job_id": "newer", "field": 1}))
    assert {e.job_id for e in journal.entries()} == {"job-1", "newer"}
    assert journal.get("torn") is None
    assert journal.get("../job-1") is None


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_the_journal_is_private(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "jobs")
    intend(journal)
    assert (tmp_path / "jobs").stat().st_mode & 0o077 == 0


def test_a_journal_that_cannot_be_written_stops_the_job(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupNeeded, match="not sent"):
        intend(Journal(tmp_path / "file"))
