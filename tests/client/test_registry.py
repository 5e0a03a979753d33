"""Another package may bring a backend."""

from __future__ import annotations

import hashlib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from client.support import GRAPH
from pennyreel import Client, Handle, Health, JobFailed, OutcomeUnknown, Progressed, SetupNeeded
from pennyreel.backends import registry
from pennyreel_contract import Artifact, Code, Result, error

DATA = b"made elsewhere"


class Elsewhere:
    """The least that a backend can be."""

    name = "elsewhere"
    target = "there"
    sha256 = hashlib.sha256(DATA).hexdigest()
    problem: Exception | None = None

    @classmethod
    def open(cls, settings: object, target: str | None = None) -> Elsewhere:  # noqa: ARG003
        return cls()

    def submit(self, work: Any) -> Handle:
        return Handle(self.name, self.target, "1", work.attempt_id)

    def follow(self, handle: Handle, *, on_event: Any, deadline: Any, cancel: Any) -> Result:
        on_event(Progressed(50.0, "executing"))
        on_event(Progressed(20.0, "executing"))
        if self.problem:
            raise self.problem
        made = Artifact(name="x.bin", kind="file", mime="x/y", bytes=14, sha256=self.sha256)
        return Result(attempt_id=handle.attempt_id, artifacts=(made,))

    def fetch(self, handle: Handle, artifact: Artifact, sink: Any, cancel: Any) -> None:
        sink.restart()
        sink.write(DATA)

    def cancel(self, handle: Handle) -> bool:
        return True

    def health(self) -> Health:
        return Health(self.name, True, "well")

    def close(self) -> None:
        pass


class Point(EntryPoint):
    """An entry point of a package that is not there."""

    def load(self) -> Any:
        if self.name == "broken":
            raise ImportError("no such module")
        return Elsewhere


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [Point(name, "some.module:Thing", registry.GROUP) for name in ("elsewhere", "broken")]

    def entry_points(*, group: str, name: str | None = None) -> list[EntryPoint]:
        return [p for p in points if p.group == group and name in (None, p.name)]

    monkeypatch.setattr(registry, "entry_points", entry_points)


def test_it_is_named_and_runs_jobs(out: Path) -> None:
    assert "elsewhere" in registry.names()
    with Client(backend="elsewhere") as client:
        events: list[Any] = []
        result = client.run(GRAPH, on_event=events.append)
        assert result.paths[0].read_bytes() == DATA
        assert [e.percent for e in events if isinstance(e, Progressed)] == [50.0, 50.0]


def test_one_that_does_not_load_is_named() -> None:
    with pytest.raises(SetupNeeded, match="broken"):
        Client(backend="broken").run(GRAPH)
    with Client() as client:
        assert not client.health("broken").reachable


def test_its_files_are_checked_too(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Elsewhere, "sha256", "0" * 64)
    with pytest.raises(JobFailed, match="damaged"):
        Client(backend="elsewhere").run(GRAPH)
    assert not list(out.iterdir())


def test_a_backend_that_goes_away_in_mid_job_leaves_the_outcome_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Elsewhere, "problem", error(Code.COMFY_UNAVAILABLE, "gone"))
    with pytest.raises(OutcomeUnknown, match="may go on") as caught:
        Client(backend="elsewhere").run(GRAPH)
    assert "pennyreel result 'elsewhere:there/1@" in caught.value.hint


def test_a_bug_in_a_backend_ends_the_job_and_does_not_hang(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Elsewhere, "problem", ZeroDivisionError("oops"))
    with pytest.raises(JobFailed, match="ZeroDivisionError: oops") as caught:
        Client(backend="elsewhere").run(GRAPH)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
