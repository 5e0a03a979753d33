"""Another package may bring a backend."""

from __future__ import annotations

import hashlib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from client.support import GRAPH
from pennyreel import (
    Client,
    Handle,
    Health,
    Job,
    JobFailed,
    OutcomeUnknown,
    PennyreelError,
    Progressed,
    SetupNeeded,
)
from pennyreel.backends import registry
from pennyreel.handles import NOT_BOOKED
from pennyreel.need import Abilities, Need, Unit, Usage
from pennyreel_contract import Artifact, Code, Result, error

DATA = b"made elsewhere"


class Elsewhere:
    """The least that a backend can be."""

    name = "elsewhere"
    target = "there"
    sha256 = hashlib.sha256(DATA).hexdigest()
    problem: Exception | None = None
    unfetchable: Exception | None = None
    cancels = 0

    @classmethod
    def open(cls, settings: object, target: str | None = None) -> Elsewhere:  # noqa: ARG003
        return cls()

    def abilities(self) -> Abilities:
        return Abilities(kinds=frozenset({"image"}), workflows=True)

    def usage(self, need: Need) -> Usage:
        return Usage("local", Unit.GPU_SECOND, None)

    def billed(self, need: Need, result: Result) -> Usage:
        return self.usage(need)

    def lookup(self, attempt_id: str) -> Handle | None:
        raise error(Code.UNKNOWN_OUTCOME, "it cannot be looked up")

    def submit(self, work: Any, deadline: Any) -> Handle:
        return Handle(self.name, self.target, "1", work.attempt_id)

    def follow(self, handle: Handle, *, on_event: Any, deadline: Any, cancel: Any) -> Result:
        on_event(Progressed(10.0, "executing", preview="data:old"))
        on_event(Progressed(50.0, "executing", preview="data:new"))
        on_event(Progressed(20.0, "executing"))
        if self.problem:
            raise self.problem
        made = Artifact(name="x.bin", kind="file", mime="x/y", bytes=14, sha256=self.sha256)
        return Result(attempt_id=handle.attempt_id, artifacts=(made,))

    def fetch(
        self, handle: Handle, artifact: Artifact, sink: Any, cancel: Any, deadline: Any
    ) -> None:
        if self.unfetchable:
            raise self.unfetchable
        sink.restart()
        sink.write(DATA)

    def cancel(self, handle: Handle) -> bool:
        type(self).cancels += 1
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


FOREIGN = "elsewhere:there/1@" + "a" * 32
"""A job that another machine sent: it is in no ledger here."""


def test_it_is_named_and_runs_jobs(out: Path) -> None:
    assert "elsewhere" in registry.names()
    with Client(backend="elsewhere") as client:
        events: list[Any] = []
        result = client.run(GRAPH, on_event=events.append)
        assert result.paths[0].read_bytes() == DATA
        assert [e.percent for e in events if isinstance(e, Progressed)] == [10.0, 50.0, 50.0]


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
    with Client() as client, pytest.raises(OutcomeUnknown, match="may go on") as caught:
        client.handle(FOREIGN).result()
    assert "pennyreel result 'elsewhere:there/1@" in caught.value.hint


def test_a_bug_in_a_backend_ends_the_job_and_does_not_hang(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Elsewhere, "problem", ZeroDivisionError("oops"))
    with Client() as client, pytest.raises(JobFailed, match="ZeroDivisionError") as caught:
        client.handle(FOREIGN).result()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_only_the_newest_picture_is_kept() -> None:
    with Client(backend="elsewhere") as client:
        for job in (client.submit(GRAPH), client.handle(FOREIGN)):
            job.result()
            kept = [e.preview for e in job.events() if isinstance(e, Progressed)]
            assert kept == [None, "data:new", None]


def test_a_handle_that_is_in_no_ledger_works_and_says_that_it_is_not_booked(out: Path) -> None:
    with Client() as client:
        result = client.handle(FOREIGN).result()
        assert client.dispatch.ledger.jobs() == []
        assert client.cancel(FOREIGN)
    assert result.paths[0].read_bytes() == DATA
    assert result.cost_microusd is None
    assert result.warnings == (NOT_BOOKED,)


@pytest.mark.parametrize(
    ("problem", "asks"),
    [
        (error(Code.UNKNOWN_OUTCOME, "x"), True),
        (error(Code.COMFY_UNAVAILABLE, "x"), True),
        (error(Code.UNAUTHORIZED, "x"), True),
        (ZeroDivisionError("x"), True),
        (error(Code.TIMEOUT, "x"), True),
        (error(Code.TIMEOUT, "x", detail={"confirmed_stopped": False}), True),
        (error(Code.CANCELLED, "x", detail={"confirmed_stopped": False}), True),
        (error(Code.TIMEOUT, "x", detail={"confirmed_stopped": True}), False),
        (error(Code.CANCELLED, "x"), False),
        (error(Code.EXECUTION_FAILED, "x"), False),
        (None, False),
    ],
)
def test_a_cancel_asks_wherever_the_end_is_not_certain(
    problem: Exception | None, asks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Elsewhere, "problem", problem)
    monkeypatch.setattr(Elsewhere, "cancels", 0)
    with Client() as client:
        job = client.handle(FOREIGN)
        list(job.events())
        assert job.cancel()
    assert Elsewhere.cancels == int(asks)


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (error(Code.COMFY_UNAVAILABLE, "gone"), "storage_failed"),
        (error(Code.STORAGE_FAILED, "gone"), "storage_failed"),
        (error(Code.TIMEOUT, "gone"), "timeout"),
        (error(Code.RESULT_EXPIRED, "gone"), "result_expired"),
    ],
)
def test_a_file_that_cannot_be_fetched_does_not_ask_for_another_run(
    problem: PennyreelError, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Elsewhere, "unfetchable", problem)
    with Client(backend="elsewhere") as client:
        for job in (client.handle(FOREIGN), client.submit(GRAPH)):
            with pytest.raises(PennyreelError) as caught:
                job.result()
            assert caught.value.code == code
            assert not caught.value.retryable
            assert job.cancel(), "it is over"
            if code != "result_expired" or not isinstance(job, Job):
                again = f"result '{FOREIGN}'" if isinstance(job, Job) else f"jobs fetch {job.id}"
                assert f"etch it again: pennyreel {again}" in caught.value.hint.replace(
                    "them", "it"
                )
