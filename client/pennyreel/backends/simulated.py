"""A backend that makes nothing: for tests, dry runs and the simulation of costs.

It says so wherever it speaks: in its health, in each result's warnings, in its pictures. What
happens to an attempt follows from the seed and the attempt's id alone, so that a run can be
repeated, in whatever order its jobs come. It is never chosen unless it is named.
"""

from __future__ import annotations

import base64
import hashlib
import math
import threading
from dataclasses import dataclass, replace

from typing_extensions import Self

from pennyreel.backends import _simulated_pictures as pictures
from pennyreel.backends._simulated_jobs import Folder, Jobs, Memory, Record
from pennyreel.backends._simulation import ABLE, Clock, Fate, Simulation, WallClock
from pennyreel.backends.base import OnEvent, Work, unsent, untold
from pennyreel.config import Settings
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.need import Abilities, Need, Unit, Usage
from pennyreel.types import Handle, Health, Progressed, Queued, Sink, Started
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Artifact, Gpu, Result

__all__ = ["ABLE", "Clock", "Fate", "SimulatedBackend", "Simulation", "WallClock"]

NOTICE = "SIMULATED: nothing was generated; this is a test picture"
POLL_S = 0.05


@dataclass(frozen=True)
class _Seen:
    """A job as it is now."""

    record: Record
    fate: Fate
    started_at: float
    ended_at: float
    code: Code | None

    def fraction(self, now: float) -> float:
        if not math.isfinite(self.fate.run_s) or self.fate.run_s <= 0:
            return 0.0
        return max(0.0, min(1.0, (now - self.started_at) / self.fate.run_s))


class SimulatedBackend:
    """One server that is not there."""

    name = "simulated"

    def __init__(
        self,
        simulation: Simulation | None = None,
        *,
        target: str = "here",
        jobs: Jobs | None = None,
        clock: Clock | None = None,
        name: str = "simulated",
        poll_s: float = POLL_S,
    ) -> None:
        """Keep them. Backends with the same `jobs` are one server.

        `poll_s`: after so long at most it looks if another process has cancelled the job.
        """
        self.name = name
        self.target = target
        self.simulation = simulation or Simulation()
        self.jobs = Memory() if jobs is None else jobs
        self.clock = clock or WallClock()
        self._poll_s = poll_s
        self.submits = 0
        """Calls of `submit` that were sent, whatever became of them."""

    @classmethod
    def open(cls, settings: Settings, target: str | None = None) -> Self:
        """Behave as PENNYREEL_SIMULATED says; its jobs are in PENNYREEL_HOME/simulated."""
        simulation = Simulation.parse(settings.simulated or "")
        return cls(simulation, target=target or "here", jobs=Folder(settings.home / "simulated"))

    def abilities(self) -> Abilities:
        """Return what it pretends to."""
        return self.simulation.able

    def usage(self, need: Need) -> Usage:
        """Units of the simulated price; nothing is billed by anybody."""
        play = self.simulation
        seconds = need.seconds if need.seconds is not None else 1.0
        amounts = {Unit.GPU_SECOND: None, Unit.OUTPUT_SECOND: seconds}
        return Usage(play.sku, play.unit, amounts.get(play.unit, 1.0), play.startup_s, play.idle_s)

    def billed(self, need: Need, result: Result) -> Usage:
        """Seconds of the simulated run, or what was told before."""
        before = self.usage(need)
        if before.unit is Unit.GPU_SECOND:
            return replace(before, amount=result.timings.get("execute"))
        return before

    def lookup(self, attempt_id: str) -> Handle | None:
        """Look into its own jobs."""
        if self.simulation.down(self.clock.now()):
            raise untold(self.name, attempt_id, "it is down", "Wait until its outage has ended.")
        return self._handle(attempt_id) if self.jobs.get(attempt_id) is not None else None

    def submit(self, work: Work, deadline: Deadline | None = None) -> Handle:
        """Take the job, or refuse or lose it. One that it has already is not run again."""
        unsent(deadline or Deadline(None))
        self.submits += 1
        now, need = self.clock.now(), work.need
        fate = self.simulation.fate(work.attempt_id, now, need.size)
        if fate.refused is not None:
            raise self._refusal(fate.refused)
        if fate.taken:
            self.jobs.add(
                Record(
                    work.attempt_id, now, need.kind, need.size, work.timeout_s,
                    seed=work.seed, metadata=dict(work.metadata),
                )
            )  # fmt: skip
        if not fate.answered:
            raise error(Code.UNKNOWN_OUTCOME, f"{self.name} was sent the job and no answer came")
        return self._handle(work.attempt_id)

    def follow(
        self, handle: Handle, *, on_event: OnEvent, deadline: Deadline, cancel: CancelToken
    ) -> Result:
        """Let time pass until the job has ended."""
        woken, told = threading.Event(), ""
        cancel.on_cancel(woken.set)
        try:
            while True:
                seen, now = self._see(handle), self.clock.now()
                if now >= seen.ended_at:
                    return _end(seen)
                if cancel.cancelled or deadline.expired:
                    raise self._stopped(handle, deadline, cancel)
                stage = "running" if now >= seen.started_at else "queued"
                if stage != told:
                    told = stage
                    on_event(Started() if stage == "running" else Queued())
                elif stage == "running":
                    on_event(Progressed(round(100 * seen.fraction(now), 1), "simulating"))
                change = (seen.ended_at if stage == "running" else seen.started_at) - now
                self.clock.wait(deadline.left(max(0.001, min(self._poll_s, change))), woken)
        finally:
            cancel.forget(woken.set)

    def fetch(
        self,
        handle: Handle,  # noqa: ARG002 - the artifact says it all
        artifact: Artifact,
        sink: Sink,
        cancel: CancelToken,
        deadline: Deadline | None = None,
    ) -> None:
        """Write the picture that came with the result."""
        cancel.check()
        if deadline is not None and deadline.expired:
            raise deadline.error("the job")
        sink.restart()
        sink.write(base64.b64decode(artifact.data or ""))

    def cancel(self, handle: Handle) -> bool:
        """Stop it, unless it is deaf or down."""
        record, now = self.jobs.get(handle.attempt_id), self.clock.now()
        if record is None or now >= self._state(record).ended_at:
            return True
        if self.simulation.deaf or self.simulation.down(now):
            return False
        self.jobs.update(replace(record, cancelled_at=now))
        return True

    def health(self) -> Health:
        """Say that it is simulated."""
        down = self.simulation.down(self.clock.now())
        detail = "simulated: makes test pictures, generates nothing"
        hint = "Wait until its outage has ended." if down else ""
        if down:
            detail = "simulated: in a simulated outage"
        return Health(self.name, not down, detail, hint, self.target)

    def close(self) -> None:
        """Nothing is open."""

    def _handle(self, attempt_id: str) -> Handle:
        remote = hashlib.sha256(attempt_id.encode("utf-8", "replace")).hexdigest()[:12]
        return Handle(self.name, self.target, f"simulated-{remote}", attempt_id)

    def _refusal(self, code: Code) -> PennyreelError:
        asked = self.simulation.retry_after_s
        return error(
            code,
            f"{self.name} refuses the job ({code.value}), as it is told to",
            hint="Choose another backend, or change PENNYREEL_SIMULATED.",
            detail={} if asked is None else {"retry_after_s": asked},
        )

    def _see(self, handle: Handle) -> _Seen:
        record = self.jobs.get(handle.attempt_id)
        if record is not None:
            seen = self._state(record)
            if self.clock.now() < seen.ended_at + self.simulation.kept_s:
                return seen
        raise error(Code.RESULT_EXPIRED, f"{self.name} no longer knows this job", hint=_AGAIN)

    def _state(self, record: Record) -> _Seen:
        """Whatever comes first ends it: its run, its time limit, a cancel."""
        fate = self.simulation.fate(record.attempt_id, record.submitted_at, record.size)
        started = record.submitted_at + fate.queue_s
        ends: list[tuple[float, Code | None]] = [(started + fate.run_s, fate.ends)]
        if record.timeout_s is not None:
            ends.append((record.submitted_at + record.timeout_s, Code.TIMEOUT))
        if record.cancelled_at is not None:
            ends.append((record.cancelled_at, Code.CANCELLED))
        ended, code = min(ends, key=lambda end: end[0])
        return _Seen(record, fate, started, ended, code)

    def _stopped(self, handle: Handle, deadline: Deadline, cancel: CancelToken) -> PennyreelError:
        detail = {"confirmed_stopped": self.cancel(handle), "handle": str(handle)}
        if cancel.cancelled:
            return error(Code.CANCELLED, "the simulated job was cancelled", detail=detail)
        return error(Code.TIMEOUT, str(deadline.error("the simulated job")), detail=detail)


_AGAIN = "Send it again."


def _end(seen: _Seen) -> Result:
    """Return the result of a job that ended well; raise what its end means otherwise."""
    if seen.code is not None:
        raise error(
            seen.code,
            f"the simulated job ended: {seen.code.value}",
            hint=_AGAIN,
            detail={"confirmed_stopped": True},
        )
    record, ran = seen.record, seen.ended_at - seen.started_at
    return Result(
        attempt_id=record.attempt_id,
        artifacts=(_picture(record.kind),),
        timings={"queue": seen.fate.queue_s, "execute": ran},
        gpu=Gpu(name="simulated", type="simulated", seconds=ran),
        seed=record.seed,
        warnings=(NOTICE,),
        metadata=record.metadata,
        worker={"worker": "simulated"},
    )


def _picture(kind: str) -> Artifact:
    data = pictures.png() if kind == "image" else pictures.gif()
    ending = "png" if kind == "image" else "gif"
    return Artifact(
        name=f"SIMULATED.{ending}",
        kind="image" if kind == "image" else "video",
        mime=f"image/{ending}",
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        data=base64.b64encode(data).decode(),
    )
