"""What a backend is: a small class that submits, follows, fetches and cancels.

Everything else (choosing, recording, saving, events for many listeners) is the client's.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, runtime_checkable
from urllib.parse import unquote, urlsplit

from pennyreel.config import Settings
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.need import Abilities, Lacks, Need, Usage
from pennyreel.sources import Source
from pennyreel.types import Handle, Health, JobEvent, Sink
from pennyreel_comfy.echoes import private_texts
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Artifact, InputFile, JobRequest, ModelNeed, Outputs, Result

MAX_ID = 400
"""Characters of a job's id; Veo's are the longest, with about 150."""

_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._~:@=+/-]{{0,{MAX_ID - 1}}}")

OnEvent = Callable[[JobEvent], None]

QUEUE_S = 3600.0
"""How long a job may wait for a worker at most, before its running time begins."""

COMFY = Abilities(
    kinds=frozenset({"image", "video", "audio", "model3d", "text", "file"}),
    workflows=True,
    image_input=True,
    lora=True,
    negative_prompt=True,
    seed=True,
    cancels=True,
)
"""What any ComfyUI can do, wherever it runs."""


@dataclass(frozen=True)
class Prompt:
    """A job as a backend without ComfyUI takes it. None = as the backend likes it."""

    text: str = field(repr=False)
    kind: str = "video"
    negative: str | None = field(default=None, repr=False)
    width: int | None = None
    height: int | None = None
    seconds: float | None = None
    frames: int | None = None
    fps: float | None = None
    format: str | None = None
    image: Source | None = None
    audio: bool = False


@dataclass(frozen=True)
class Work:
    """One job, ready to be sent: its graph is whole and names its files.

    A job that is a prompt has it beside the graph that a ComfyUI runs for it; a job that is a
    graph has no prompt. `need` says what both require.
    """

    attempt_id: str
    graph: Mapping[str, Any] = field(repr=False)
    sources: tuple[Source, ...] = ()
    outputs: Outputs = field(default_factory=Outputs)
    models: tuple[ModelNeed, ...] = ()
    seed: int | None = None
    timeout_s: float | None = None
    """Of running."""
    queue_s: float = QUEUE_S
    """Of waiting for a worker before that: a server keeps the job for both."""
    preview: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    prompt: Prompt | None = None
    need: Need = field(default_factory=lambda: Need(workflow=True))

    def request(self, inputs: tuple[InputFile, ...] = ()) -> JobRequest:
        """Return the request for the wire; raises pydantic's ValidationError."""
        return JobRequest(
            attempt_id=self.attempt_id,
            workflow={k: dict(v) for k, v in self.graph.items()},
            inputs=inputs,
            outputs=self.outputs,
            models=self.models,
            seed=self.seed,
            timeout_s=self.timeout_s,
            preview=self.preview,
            metadata=dict(self.metadata),
        )

    def words(self) -> tuple[str, ...]:
        """Return what the user wrote into it, which no record may quote: prompts, and in a graph
        whatever may be one.
        """
        own = () if self.prompt is None else (self.prompt.text, self.prompt.negative or "")
        return tuple(dict.fromkeys((*own, *private_texts(self.graph))))

    def secrets(self) -> tuple[str, ...]:
        """Return what of its files' addresses nobody may be told again: signatures, passwords."""
        given = [urlsplit(source.url) for source in self.sources if source.url]
        found = [part for url in given for part in (url.query, url.password or "")]
        return tuple(form for part in found if part for form in (part, unquote(part)))

    def digest(self) -> str:
        """Return a sha256 that tells this request from another; the attempt's id is left out."""
        if self.graph:
            body = self.request().model_dump(mode="json", exclude={"attempt_id"})
        else:
            wishes = {f.name: getattr(self.prompt, f.name, None) for f in fields(Prompt)}
            body = {**wishes, "image": None, "seed": self.seed}  # the image is one of the files
        files = [s.digest() for s in self.sources]
        text = json.dumps([body, files], sort_keys=True, default=str)
        return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


class Backend(Protocol):
    """One place that runs jobs. Thread-safe."""

    name: str
    """As it stands in handles and in --backend."""
    target: str
    """Which of its kind: an endpoint's id, a server's URL."""

    @classmethod
    def open(cls, settings: Settings, target: str | None = None) -> Backend:
        """Build from settings, or for another target of the same kind; nothing is sent.

        Raises:
            SetupNeeded: something is not configured, saying what and how.

        """

    def abilities(self) -> Abilities:
        """Return what it can do, as far as is known without asking it."""

    def usage(self, need: Need) -> Usage:
        """Return what such a job would be billed for, at most where that is known; asks nobody."""

    def billed(self, need: Need, result: Result) -> Usage:
        """Return what a job that ended so was billed for: `usage`'s sku and unit.

        An amount that the result does not tell is None, never 0.
        """

    def lookup(self, attempt_id: str) -> Handle | None:
        """Return the handle of an attempt whose submit had no answer; None: it was not accepted.

        None is a claim that lets the job be sent elsewhere, so what cannot look, or not now, must
        not make it. Only where `abilities().looks_up`; elsewhere it always raises. Free.

        Raises:
            OutcomeUnknown: it cannot be told (yet); see `untold`.

        """

    def submit(self, work: Work, deadline: Deadline | None = None) -> Handle:
        """Send the job, once.

        Raises:
            BadRequest, SetupNeeded, Unavailable: nothing runs.
            JobTimeout: the deadline passed before anything was sent.
            OutcomeUnknown: it may run.

        """

    def follow(
        self, handle: Handle, *, on_event: OnEvent, deadline: Deadline, cancel: CancelToken
    ) -> Result:
        """Wait for the job's end, from whatever process submitted it.

        Raises:
            JobFailed, JobCancelled: as named.
            JobTimeout: the deadline passed; the job was stopped first, its detail's
                `confirmed_stopped` says if that is certain.
            Unavailable, OutcomeUnknown: the backend no longer answers; the job may go on.

        """

    def fetch(
        self,
        handle: Handle,
        artifact: Artifact,
        sink: Sink,
        cancel: CancelToken,
        deadline: Deadline | None = None,
    ) -> None:
        """Stream an artifact's content; `sink.restart()` before each new try.

        Raises:
            JobCancelled, JobTimeout: at once when it is time, whatever the connection does.
            Unavailable, JobFailed: it cannot be fetched.

        """

    def cancel(self, handle: Handle) -> bool:
        """Stop the job; return whether it is known not to run any more."""

    def health(self) -> Health:
        """Ask what costs nothing. Never raises."""

    def close(self) -> None:
        """Let connections go; jobs go on."""


@runtime_checkable
class Stocked(Protocol):
    """A backend that can tell which nodes and models it has. Optional."""

    name: str
    target: str

    def lacks(self, need: Need) -> Lacks | None:
        """Return what it lacks of what a job requires; None = it cannot be told.

        Free, done within LACKS_S, and never raises. What it does not know it does not claim: a
        place that lacks something gets no job.
        """


LACKS_S = 5.0


def told_id(value: object) -> str | None:
    """Return a job's id as a server told it; None where it is none.

    It goes into handles, the ledger and paths: letters, digits and a few signs, of `MAX_ID` at
    most, and no way up.
    """
    if not isinstance(value, str) or not _ID.fullmatch(value):
        return None
    return None if ".." in value or "//" in value else value


def unsent(deadline: Deadline) -> None:
    """Raise JobTimeout if it is too late to send the job. Call it right before that."""
    if deadline.expired:
        raise error(
            Code.TIMEOUT,
            f"{deadline.error('preparing the job')}; nothing was sent",
            detail={"confirmed_stopped": True},
        )


def untold(name: str, attempt_id: str, why: str, hint: str) -> PennyreelError:
    """Return the error of a lookup that cannot tell what became of an attempt."""
    return error(
        Code.UNKNOWN_OUTCOME,
        f"{name} cannot tell what became of attempt {attempt_id}: {why}",
        hint=hint,
        detail={"attempt_id": attempt_id},
    )


def pause(cancel: CancelToken, seconds: float) -> None:
    """Wait, or raise JobCancelled as soon as that is so."""
    woken = threading.Event()
    cancel.on_cancel(woken.set)
    try:
        woken.wait(seconds)
    finally:
        cancel.forget(woken.set)
    cancel.check()
