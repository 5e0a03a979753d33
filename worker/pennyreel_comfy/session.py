"""Runs graphs on one ComfyUI server: one websocket for all jobs, told apart by prompt id.

The websocket only says when to look and how far a job is. /history decides: it is read when a
job's end is announced, and every `poll_s` besides, so a lost message delays a job and never
hangs it. A job that is neither queued nor in /history is lost, and that is an error too.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from typing_extensions import Self

from pennyreel_comfy.events import (
    Cached,
    Errored,
    Event,
    Executing,
    Image,
    Interrupted,
    NodeStates,
    NodeSteps,
    Started,
    Succeeded,
)
from pennyreel_comfy.eventsocket import EventSocket
from pennyreel_comfy.http import ComfyHttp
from pennyreel_comfy.rejections import describe, execution_failure, node_findings
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Code, PennyreelError, Unavailable, error

POLL_S = 1.0
DOWN_GRACE_S = 15.0
"""How long a server may be unreachable in mid-job before the job is given up."""

SETTLE_S = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""/history may lag behind the announced end: read it after these pauses, then by `poll_s`."""

CANCEL_S = 10.0
CALL_S = 3.0
"""Of one call in a cancel: somebody waits for it."""

ASK_S = 10.0
"""Of one call that asks how a job is: then its deadline is looked at again."""

HEAR_S = 2.0
OPEN_S = 1.0
"""How long a websocket that is being opened anew is waited for: it may bring what is missing."""

PROVE_S = 5.0
"""How long a job whose images come by websocket waits for a connection that works."""

_BY_SOCKET = "SaveImageWebsocket"

Listener = Callable[[Event], None]


class Session:
    """One server, one websocket, any number of jobs from any thread."""

    def __init__(
        self,
        http: ComfyHttp,
        *,
        client_id: str | None = None,
        poll_s: float = POLL_S,
        down_grace_s: float = DOWN_GRACE_S,
    ) -> None:
        """Keep the address; the websocket opens with the first job."""
        self.http = http
        self.client_id = client_id or uuid.uuid4().hex
        self.poll_s = poll_s
        self.down_grace_s = down_grace_s
        self._runs: dict[str, Run] = {}
        self._lock = threading.Lock()
        self._generation = 0
        self._socket = EventSocket(
            http.ws_url,
            self.client_id,
            on_event=self._dispatch,
            on_reconnect=self._reconnected,
            headers=http.headers,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def generation(self) -> int:
        """How often the websocket was reopened: a restarted server shows here."""
        return self._generation

    @property
    def connected(self) -> bool:
        """Whether the websocket is open now."""
        return self._socket.is_open

    def connect(self) -> bool:
        """Open the websocket now; return whether it is open. Jobs run without it, too."""
        return self._socket.start()

    def submit(
        self,
        graph: Mapping[str, Any],
        *,
        prompt_id: str | None = None,
        extra_data: Mapping[str, Any] | None = None,
        listener: Listener | None = None,
    ) -> Run:
        """Queue a graph.

        `prompt_id` is a canonical UUID; one is minted where none is given. `listener` is called in
        the reader thread with this job's events only.

        Raises:
            BadRequest: ComfyUI refuses the graph; nothing runs.
            Unavailable: no server answers; nothing runs.
            OutcomeUnknown: the server went away before it said whether it took the job.

        """
        self._socket.start()
        if _by_socket(graph):  # what is sent on a dead connection is lost
            self._socket.prove(PROVE_S)
        run = Run(self, graph, prompt_id or str(uuid.uuid4()), listener)
        with self._lock:
            self._runs[run.prompt_id] = run
        try:
            run.node_errors = self._post(run, extra_data)
        except BaseException:
            self.drop(run)
            raise
        return run

    def adopt(self, prompt_id: str, *, listener: Listener | None = None) -> Run:
        """Follow a job that was submitted before, perhaps by another process."""
        self._socket.start()
        run = Run(self, {}, prompt_id, listener)
        with self._lock:
            self._runs[prompt_id] = run
        return run

    def drop(self, run: Run) -> None:
        """Stop handing events to a job; later ones for it are ignored."""
        with self._lock:
            self._runs.pop(run.prompt_id, None)

    def fail_all(self, problem: PennyreelError) -> None:
        """Complete every waiting job with this error: the server process has died."""
        with self._lock:
            runs = list(self._runs.values())
        for run in runs:
            run.fail(problem)

    def close(self) -> None:
        """Close the connections. Jobs on the server go on."""
        self._socket.close()
        self.http.close()

    def _post(self, run: Run, extra_data: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """POST the graph; an unanswered POST is looked up by its id before it is judged."""
        try:
            return self.http.prompt(
                run.graph,
                client_id=self.client_id,
                prompt_id=run.prompt_id,
                extra_data=extra_data,
            ).node_errors
        except PennyreelError as problem:
            if problem.code != Code.UNKNOWN_OUTCOME.value:
                raise
            if self._known(run.prompt_id):
                return {}
            raise

    def _known(self, prompt_id: str) -> bool:
        try:
            return prompt_id in self.http.queue() or self.http.history(prompt_id) is not None
        except Unavailable:
            return False

    def _dispatch(self, event: Event) -> None:
        prompt_id = getattr(event, "prompt_id", None)
        with self._lock:
            if prompt_id is not None:
                run = self._runs.get(prompt_id)
            else:  # an old server's preview has no id: it is of the one job that runs
                active = [r for r in self._runs.values() if r.started and not r.ended]
                run = active[0] if isinstance(event, Image) and len(active) == 1 else None
        if run is not None:
            run.handle(event)

    def _reconnected(self) -> None:
        self._generation += 1
        with self._lock:
            runs = list(self._runs.values())
        for run in runs:
            run.wake()


class Run:
    """One job on the server."""

    def __init__(
        self, session: Session, graph: Mapping[str, Any], prompt_id: str, listener: Listener | None
    ) -> None:
        """Use `Session.submit` or `Session.adopt`."""
        self.prompt_id = prompt_id
        self.graph = graph
        self.node_errors: Mapping[str, Any] = {}
        self.started = False
        self.ended = False
        self.started_at: float | None = None
        self.heard_at = time.monotonic()
        """When the server last said anything about this job."""
        self.images: list[Image] = []
        """What SaveImageWebsocket nodes sent: it is in no file and not in /history."""
        self._session = session
        self._listener = listener
        self._generation = session.generation
        self._node: str | None = None
        self._problem: PennyreelError | None = None
        self._announced = dict.fromkeys(_by_socket(graph), 1)
        self._changed = threading.Condition()
        self._look = False

    @property
    def images_lost(self) -> bool:
        """Whether images that come by websocket alone were sent while it was broken.

        An output that ComfyUI dropped is none: see `warnings`.
        """
        if not self._broken():
            return False
        errors = [e for e in self.node_errors.values() if isinstance(e, Mapping)]
        dropped = {n for e in errors for n in e.get("dependent_outputs") or ()}
        return any(
            sum(image.node == node for image in self.images) < count
            for node, count in self._announced.items()
            if node not in dropped
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """Outputs that ComfyUI dropped without refusing the whole graph."""
        found = node_findings(self.node_errors, self.graph)
        return tuple(f"not run: {describe(f)}" for f in found)

    def handle(self, event: Event) -> None:
        """Take one event of this job (reader thread)."""
        self.heard_at = time.monotonic()
        if isinstance(event, (Started, Executing, NodeSteps, NodeStates, Cached)):
            if not self.started:
                self.started_at = time.monotonic()
            self.started = True
        if isinstance(event, Executing):
            self._node = event.node
        if isinstance(event, NodeSteps) and event.node in self._announced:
            self._announced[event.node] = int(event.max)  # it counts its images
        if isinstance(event, Image):
            self._keep(event)
        finished = isinstance(event, Executing) and event.node is None
        try:
            if self._listener is not None and not self.ended:
                self._listener(event)
        finally:  # a listener that fails is no reason to miss the end
            if finished or isinstance(event, (Succeeded, Errored, Interrupted)):
                self.ended = True
                self.wake()

    def wake(self) -> None:
        """Make `wait` look at the server now."""
        with self._changed:
            self._look = True
            self._changed.notify_all()

    def fail(self, problem: PennyreelError) -> None:
        """End `wait` with this error."""
        with self._changed:
            self._problem = self._problem or problem
            self._changed.notify_all()

    def wait(
        self,
        deadline: Deadline | None = None,
        cancel: CancelToken | None = None,
        *,
        stall_s: float | None = None,
    ) -> dict[str, Any]:
        """Block until the job has ended well and return its /history entry.

        `stall_s`: how long the server may say nothing of the job, the websocket being open.

        Raises:
            JobFailed: a node raised (`execution_failed`, `out_of_memory`), the server died, or it
                made no progress (`stalled`; the job is still on it).
            JobCancelled: `cancel` was used, or somebody interrupted or deleted the job.
            JobTimeout: the deadline passed; the job was stopped on the server.
            Unavailable: the server was unreachable for `down_grace_s`.

        """
        deadline, cancel = deadline or Deadline(None), cancel or CancelToken()
        cancel.on_cancel(self.wake)
        try:
            return _outcome(self._wait(deadline, cancel, stall_s))
        finally:
            cancel.forget(self.wake)
            self._session.drop(self)

    def cancel(self) -> bool:
        """Stop the job, queued or running; return whether it is known to have stopped.

        A job may pass from the queue to the GPU between two calls, so both places are tried until
        it is in neither. /interrupt is only sent while /queue shows this very job running: older
        servers stop whatever runs.
        """
        http, limit = self._session.http, Deadline(CANCEL_S)
        pause = 0.02
        while not limit.expired:
            try:
                if not http.cancel_job(self.prompt_id, timeout=CALL_S):
                    http.dequeue(self.prompt_id, timeout=CALL_S)
                    if self.prompt_id in http.queue(timeout=CALL_S).running:
                        http.interrupt(self.prompt_id, timeout=CALL_S)
                if self.prompt_id not in http.queue(timeout=CALL_S):
                    return True
            except Unavailable:
                return False
            with self._changed:
                self._changed.wait(pause)
            pause = min(pause * 1.5, 0.5)
        return False

    def _wait(
        self, deadline: Deadline, cancel: CancelToken, stall_s: float | None
    ) -> dict[str, Any]:
        settle, missing, down_since = list(SETTLE_S), 0, 0.0
        poll_s = self._session.poll_s
        if self.graph:  # just submitted: nothing to see before its first news
            self._sleep(poll_s, deadline, cancel)
        while True:
            self._check(deadline, cancel)
            settling, asked = self.ended and bool(settle), time.monotonic()
            try:
                # The queue first: a job passes from there to /history, never back.
                http, limit = self._session.http, min(ASK_S, deadline.left() + 1.0)
                known = settling or self.prompt_id in http.queue(timeout=limit)
                entry = http.history(self.prompt_id, timeout=limit)
                down_since = 0.0
            except Unavailable as problem:
                # A hung server costs a whole time-out before it is known to be one.
                down_since = down_since or asked
                if time.monotonic() - down_since > self._session.down_grace_s:
                    raise problem from None
                self._sleep(min(poll_s, 0.25), deadline, cancel)
                continue
            if entry is not None:
                self._hear_out(deadline)
                return entry
            self._check_stall(stall_s)
            missing = 0 if known else missing + 1
            if missing > 1:
                raise self._lost()
            pause = settle.pop(0) if settling else poll_s
            self._sleep(min(pause, 0.1) if missing else pause, deadline, cancel)

    def _hear_out(self, deadline: Deadline) -> None:
        """Wait for the end's announcement where outputs come over the websocket before it."""
        if not _by_socket(self.graph):
            return
        began = time.monotonic()
        limit = began + deadline.left(HEAR_S)
        with self._changed:
            while not self.ended and (left := limit - time.monotonic()) > 0:
                if self._session.connected:
                    self._changed.wait(left)
                elif time.monotonic() - began < OPEN_S:
                    self._changed.wait(min(left, 0.05))
                else:
                    return

    def _check(self, deadline: Deadline, cancel: CancelToken) -> None:
        if self._problem is not None:
            raise self._problem
        if cancel.cancelled:
            confirmed = self.cancel()
            raise error(
                Code.CANCELLED, "the job was cancelled", detail={"confirmed_stopped": confirmed}
            )
        if deadline.expired:
            seconds = deadline.seconds
            raise error(
                Code.TIMEOUT,
                f"the job took longer than the {seconds:g} s it was given",
                detail={"confirmed_stopped": self.cancel()},
            )

    def _check_stall(self, stall_s: float | None) -> None:
        if not self._session.connected:
            self.heard_at = time.monotonic()  # deaf, so its silence says nothing
        silent = time.monotonic() - self.heard_at
        if stall_s is not None and not self.ended and silent > stall_s:
            where = f" at node {self._node}" if self._node else ""
            raise error(Code.STALLED, f"ComfyUI made no progress for {stall_s:g} s{where}")

    def _sleep(self, seconds: float, deadline: Deadline, cancel: CancelToken) -> None:
        """Wait for something to look at, at most `seconds`."""
        limit = time.monotonic() + min(seconds, deadline.left())
        with self._changed:
            while not self._look and self._problem is None and not cancel.cancelled:
                left = limit - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            self._look = False

    def _lost(self) -> PennyreelError:
        if self.ended:
            return error(Code.OUTPUT_MISSING, "the job ended, but ComfyUI's history has lost it")
        # Of a job that was adopted, nobody here saw whether the server was restarted since.
        if self._broken() or not self.graph:
            return error(Code.COMFY_CRASHED, "ComfyUI was restarted and no longer knows this job")
        return error(Code.CANCELLED, "somebody took the job out of ComfyUI's queue")

    def _broken(self) -> bool:
        """Whether the websocket is broken, or was since this job was begun."""
        # Not the other way round: it may be reopened in between.
        return not self._session.connected or self._session.generation != self._generation

    def _keep(self, image: Image) -> None:
        node = image.node or self._node
        if node in _by_socket(self.graph):
            self.images.append(Image(image.mime, image.data, self.prompt_id, node))


def _by_socket(graph: Mapping[str, Any]) -> list[str]:
    """Return the nodes whose images are sent by websocket, and are nowhere else."""
    nodes = graph.items() if isinstance(graph, Mapping) else ()  # ComfyUI refuses what is no graph
    return [n for n, v in nodes if isinstance(v, Mapping) and v.get("class_type") == _BY_SOCKET]


def _outcome(entry: dict[str, Any]) -> dict[str, Any]:
    """Judge a /history entry: an interrupted job has status_str "error", too."""
    status = entry.get("status") or {}
    messages = {m[0]: m[1] for m in status.get("messages") or () if len(m) > 1}
    if "execution_interrupted" in messages:
        raise error(Code.CANCELLED, "the job was interrupted on the server")
    if "execution_error" in messages:
        raise execution_failure(messages["execution_error"])
    if status.get("status_str", "success") != "success":
        raise error(Code.EXECUTION_FAILED, "ComfyUI says the job failed, and gives no reason")
    return entry
