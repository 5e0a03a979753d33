"""Going on with many jobs at once: a backend may keep what is made for half an hour only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pennyreel.cli.common import echo, echo_json, say

if TYPE_CHECKING:
    from pennyreel.batch import Following, Outcome
    from pennyreel.client import Client
    from pennyreel.errors import PennyreelError
    from pennyreel.routing.machine import Ask
    from pennyreel.types import JobEvent

AT_ONCE = 16


def passed_over(problem: PennyreelError) -> bool:
    """Whether a job is somebody else's to go on with: it is driven, or began elsewhere."""
    detail = problem.info.detail
    return bool(detail.get("busy") or detail.get("absent"))


def told(job_id: str, problem: PennyreelError) -> None:
    """Say why one of the jobs was not done, and what can be done about it."""
    say(f"{job_id[:12]}: {problem}")
    if problem.hint:
        say("  next: " + problem.hint.replace("\n", "\n        "))


@dataclass
class Resuming:
    """One run over the jobs; see `all`."""

    client: Client
    timeout_s: float | None
    out_dir: Path | None
    ask: Callable[[Ask], bool] | None
    named: bool
    """The user named them: one that cannot be gone on with is an error then."""
    as_json: bool
    json_lines: bool
    _begun: dict[str, str] = field(default_factory=dict)
    """The full ids of those that run, by what the user named them."""
    _failed: list[PennyreelError] = field(default_factory=list)
    _stopped: dict[str, bool] = field(default_factory=dict)
    _broken: OSError | None = None
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def all(self, job_ids: Sequence[str]) -> None:
        """Go on with them, so many at once, and show how each ends.

        Ctrl-C cancels those that were begun and tells how each ended; the others stay open.

        Raises:
            PennyreelError: the first one's that failed.

        """
        from pennyreel import batch

        try:
            batch.run(
                [self._starter(job_id) for job_id in job_ids],
                concurrency=AT_ONCE,
                on_event=lambda n, event: self._event(job_ids[n], event),
                on_end=lambda n, outcome: self._end(job_ids[n], outcome),
                on_stop=self._stopping,
                regardless=True,
            )
        except KeyboardInterrupt:
            raise self._interrupted() from None
        if self._broken is not None:
            raise self._broken
        if self._failed:
            raise self._failed[0]

    def _starter(self, job_id: str) -> Callable[[], Following]:
        from pennyreel.errors import Code, PennyreelError, error

        def start() -> Following:
            try:
                job = self.client.resume(
                    job_id,
                    timeout_s=self.timeout_s,
                    out_dir=self.out_dir,
                    ask=None if self.ask is None else lambda q: self._asked(job_id, q),
                )
            except PennyreelError:
                raise
            except Exception as problem:  # one job's; the others are not cancelled for it
                raise error(Code.INTERNAL, f"unforeseen: {type(problem).__name__}") from problem
            self._begun[job_id] = job.id
            return job

        return start

    def _asked(self, job_id: str, question: Ask) -> bool:
        """Ask one question at a time, and say for which job."""
        with self._turn:
            say(f"{job_id[:12]}:")
            return self.ask is not None and self.ask(question)

    def _event(self, job_id: str, event: JobEvent) -> None:
        from pennyreel import types

        with self._showing():
            if self.json_lines:
                echo_json({"job_id": self._begun[job_id], **types.event_json(event)})
            if isinstance(event, types.Warned):
                say(f"{job_id[:12]}: warning: {event.text}")
            elif isinstance(event, types.Told):
                say(f"{job_id[:12]}: {event.text}")
            elif isinstance(event, types.Submitted) and not (self.as_json or self.json_lines):
                say(f"{job_id[:12]}: submitted {event.handle}")

    def _end(self, job_id: str, outcome: Outcome) -> None:
        from pennyreel.errors import JobCancelled, PennyreelError

        if isinstance(outcome, PennyreelError):
            if isinstance(outcome, JobCancelled):
                self._stopped[job_id] = outcome.info.detail.get("confirmed_stopped") is True
            if self.named or not passed_over(outcome):
                self._failed.append(outcome)
        self._begun.pop(job_id, None)
        with self._showing():
            self._shown(job_id, outcome)

    def _shown(self, job_id: str, outcome: Outcome) -> None:
        from pennyreel.errors import PennyreelError

        if isinstance(outcome, PennyreelError):
            told(job_id, outcome)
        elif self.json_lines:
            echo_json({"event": "result", **outcome.to_json()})
        elif self.as_json:
            echo_json(outcome.to_json())
        else:
            say(f"{job_id[:12]}: done" + ("" if outcome.paths else ", and made no files"))
            for path in outcome.paths:
                echo(str(path))

    @contextmanager
    def _showing(self) -> Iterator[None]:
        """Go on where nobody reads any more what is shown: no job is cancelled for that."""
        try:
            yield
        except OSError as problem:
            self._broken = self._broken or problem

    def _stopping(self) -> None:
        self._stopped.clear()
        say("cancelling; press Ctrl-C again to leave without waiting")

    def _interrupted(self) -> PennyreelError:
        from pennyreel.errors import Code, error

        stopped = sum(self._stopped.values())
        open_ = len(self._stopped) - stopped + len(self._begun)
        text = f"interrupted; {stopped} running jobs were stopped"
        text += f", and of {open_} it is not known whether they stopped" if open_ else ""
        return error(
            Code.CANCELLED,
            text,
            hint="See them: pennyreel jobs list. Go on with those that are open: "
            "pennyreel jobs resume",
            detail={"stopped": stopped, "confirmed_stopped": not open_},
        )
