"""A graph on the GPU: once, or once more where ComfyUI was at fault; never twice with paid nodes.

gone before it had the graph              ComfyUI is started anew; the graph has not run yet
crashed, hung, poisoned by a CUDA error   ComfyUI is started anew, and the graph run again, once
images lost with the websocket            the graph is run again, once
out of GPU memory                         models are unloaded and it is run again; then ComfyUI
                                          is started in its low-memory mode for this kind of job
deadline passed, cancelled                ComfyUI is made to stop it, or is replaced
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pennyreel_comfy.alarms import alarms
from pennyreel_comfy.diagnose import Kind
from pennyreel_comfy.events import Event, Succeeded
from pennyreel_comfy.session import CALL_S, Run, Session
from pennyreel_comfy.sessions import within
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import (
    Code,
    JobCancelled,
    JobTimeout,
    OutcomeUnknown,
    PennyreelError,
    Unavailable,
    error,
)
from pennyreel_worker.comfy import Comfy
from pennyreel_worker.gate import Turn

log = logging.getLogger(__name__)

CRASHES = {Code.COMFY_CRASHED.value, Code.STALLED.value}
"""How jobs end by ComfyUI's fault. Of a poisoned CUDA context, too: it is told as a crash, and
ComfyUI has to end for it."""

FAILURES = {Code.EXECUTION_FAILED.value, Code.OUT_OF_MEMORY.value}
"""How jobs end by a node's fault, after which ComfyUI still shows what other nodes made."""

_WORTH_S = 1.0
"""With less time left than this, or than the failed run took, another run is not begun."""


@dataclass
class Executed:
    """What came of a graph that ran to its end."""

    entry: dict[str, Any]
    run: Run
    seconds: float
    """On the GPU, the runs that failed included."""

    warnings: list[str] = field(default_factory=list)
    again: bool = False
    """Whether it took more than one run."""


@dataclass
class Execution:
    """One graph and what it may do to get through."""

    comfy: Comfy
    graph: dict[str, Any]
    kind: str
    deadline: Deadline
    cancel: CancelToken
    job_id: str
    paid: bool = False
    """It has API nodes that cost money: it is run once, whatever happens."""

    api_key: str | None = field(default=None, repr=False)
    stall_s: float | None = None
    listener: Callable[[Event], None] = lambda _: None
    sent: bool = False
    """Whether ComfyUI may have run any of it."""

    prompts: list[str] = field(default_factory=list)
    """What ComfyUI knows it by, and has to forget."""

    _session: Session | None = None
    _run: Run | None = None
    _began: float = 0.0
    _spent: float = 0.0

    def run(self, turn: Turn) -> Executed:
        """Run it to its end, holding the turn; the turn is left as soon as ComfyUI is done.

        Raises:
            PennyreelError: what the last run ended with.

        """
        tried: list[str] = []
        while True:
            self._began = time.monotonic()
            try:
                entry, run = self._once(turn)
            except PennyreelError as problem:
                took = time.monotonic() - self._began
                self._spent += took
                remedy = self._remedy(problem, tried)
                if remedy is None or self.deadline.left() < max(_WORTH_S, took):
                    raise
                tried.append(remedy)
                log.warning("%s: %s, once more", problem, remedy, extra={"job": self.job_id})
                turn.retake(self.deadline, self.cancel)
                self._apply(remedy)
                continue
            seconds = time.monotonic() - (run.started_at or self._began)
            warnings = [f"ComfyUI failed and the job was run again: {r}" for r in tried]
            return Executed(
                entry,
                run,
                self._spent + seconds,
                warnings + list(run.warnings),
                again=bool(tried),
            )

    def left_by_failure(self) -> Executed | None:
        """Return what the last run made before a node of it failed, as far as ComfyUI shows it."""
        if self._session is None or self._run is None:
            return None
        try:
            entry = self._session.http.history(self._run.prompt_id, timeout=CALL_S)
        except Unavailable:
            return None
        return None if entry is None else Executed(entry, self._run, self._spent, again=True)

    def _once(self, turn: Turn) -> tuple[dict[str, Any], Run]:
        try:
            return self._submit(turn)
        except _NeverSentError as never:
            log.warning("%s", never.problem, extra={"job": self.job_id})
        try:
            return self._submit(turn)
        except _NeverSentError as again:
            raise again.problem from None

    def _submit(self, turn: Turn) -> tuple[dict[str, Any], Run]:
        session = self._session = self.comfy.ready(self.deadline, self.cancel, kind=self.kind)
        self._began = time.monotonic()  # its start is no measure of how long the graph takes

        def listen(event: Event) -> None:
            self.listener(event)
            if isinstance(event, Succeeded):
                turn.leave()  # what is left to do needs no GPU

        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self.comfy.busy())
            except PennyreelError as problem:  # it has died since
                raise _NeverSentError(problem) from None
            run = self._run = self._post(session, listen)
            return self._wait(session, run), run

    def _post(self, session: Session, listen: Callable[[Event], None]) -> Run:
        """Hand the graph to ComfyUI."""
        former, self.sent = self.sent, True
        self.prompts.append(str(uuid.uuid4()))
        try:
            with _almost_within(self.deadline, self.cancel):
                return session.submit(
                    self.graph,
                    prompt_id=self.prompts[-1],
                    extra_data={"api_key_comfy_org": self.api_key} if self.api_key else None,
                    listener=listen,
                )
        except Unavailable as problem:
            self.sent = former
            raise _NeverSentError(self._stopped_answering(str(problem))) from None
        except OutcomeUnknown as problem:
            raise self._stopped_answering(str(problem)) from None

    def _wait(self, session: Session, run: Run) -> dict[str, Any]:
        """Wait for the run; whatever its end, ComfyUI keeps nothing of it and works on nothing."""
        try:
            entry = run.wait(self.deadline, self.cancel, stall_s=self.stall_s)
            if run.images_lost:
                raise error(Code.OUTPUT_MISSING, "the websocket broke while images came by it")
            return entry
        except (JobCancelled, JobTimeout) as problem:
            if problem.info.detail.get("confirmed_stopped") is False or _still_there(session, run):
                self.comfy.condemn(f"did not stop work on {run.prompt_id}", session)
            raise
        except Unavailable as problem:
            raise self._stopped_answering(str(problem)) from None
        except PennyreelError as problem:
            if problem.code in CRASHES:
                self.comfy.condemn(str(problem), session)  # if it lives, it is of no use
            raise

    def _stopped_answering(self, why: str) -> PennyreelError:
        death = self.comfy.process.death()
        if death is not None:
            return death
        if self._session is not None:
            self.comfy.condemn("stopped answering", self._session)
        return error(Code.COMFY_CRASHED, f"ComfyUI stopped answering: {why}")

    def _remedy(self, problem: PennyreelError, tried: list[str]) -> str | None:
        """Return what to do before the graph is run again, or None where it is not."""
        if self.paid or self.cancel.cancelled or problem.code == Code.COMFY_START_FAILED.value:
            return None
        wanted = _FREE if problem.code == Code.OUT_OF_MEMORY.value else None
        if problem.code == Code.OUTPUT_MISSING.value:
            wanted = _RESEND
        if problem.code in CRASHES or problem.info.detail.get("cause") == Kind.OUT_OF_RAM.value:
            wanted = _RESTART  # less memory on the GPU would mean more of the machine's
        if wanted == _FREE and _FREE in tried:
            wanted = _SMALLER if self.comfy.can_shrink() else None
        return None if wanted in tried else wanted

    def _apply(self, remedy: str) -> None:
        if remedy == _SMALLER:
            self.comfy.shrink(self.kind)
        elif remedy == _RESTART:
            if self._session is not None:  # dead, it is started anew in any case
                self.comfy.condemn("has to be started anew", self._session)
        elif remedy == _FREE:
            with contextlib.suppress(PennyreelError):
                self.comfy.ready(self.deadline, self.cancel, kind=self.kind).http.free()


_RESTART = "ComfyUI was started anew"
_RESEND = "its images were lost with the connection"
_FREE = "ComfyUI's models were unloaded"
_SMALLER = "ComfyUI was started in its low-memory mode"


class _NeverSentError(Exception):
    """ComfyUI was gone before it had the graph: nothing ran."""

    def __init__(self, problem: PennyreelError) -> None:
        super().__init__(str(problem))
        self.problem = problem


@contextlib.contextmanager
def _almost_within(deadline: Deadline, cancel: CancelToken) -> Iterator[None]:
    """Let no call to ComfyUI outlast the job by more than `CALL_S`.

    Not cut at once: a server that is well answers by then, and can be told to stop the job. Of one
    that is cut, nobody knows whether it runs the graph, and it has to be replaced.
    """
    late = CancelToken()

    def begin() -> None:
        alarms.after(CALL_S, late.cancel)

    cancel.on_cancel(begin)
    try:
        with within(Deadline(deadline.left() + CALL_S), late):
            yield
    finally:
        cancel.forget(begin)


def _still_there(session: Session, run: Run) -> bool:
    try:
        return run.prompt_id in session.http.queue(timeout=CALL_S)
    except Unavailable:
        return True


def unrepeatable(problem: PennyreelError) -> PennyreelError:
    """Return an error as that of a graph with paid nodes: it may have been charged for already.

    No program may send such a job again by itself.
    """
    info = problem.info
    if not info.retryable:
        return problem
    return error(
        Code(info.code),
        info.message,
        hint="It has paid API nodes, which may have run: check before you send it again.",
        retryable=False,
        detail=info.detail,
    )
