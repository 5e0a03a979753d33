"""What the backends at Google share: one POST that submits, then looks, and nothing to look up in.

A subclass says how a job is asked for, looked at and stopped, and what its end means.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from pennyreel import _http
from pennyreel.backends import _google_results as results
from pennyreel.backends._google_api import GoogleApi, Service
from pennyreel.backends._google_follow import Following, Look, follow
from pennyreel.backends.base import OnEvent, Work, pause, told_id
from pennyreel.errors import PennyreelError
from pennyreel.need import Need, Usage
from pennyreel.types import Handle, Health, Sink
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Artifact, Result


class GoogleBackend(ABC):
    """One model, behind one API of Google's."""

    name: str
    service: ClassVar[Service]
    goes_on: ClassVar[str]
    """What to say of a job that is not known to have stopped."""

    def __init__(
        self,
        target: str,
        model: str,
        api: GoogleApi,
        *,
        described: str,
        poll_s: tuple[float, float],
        down_grace_s: float,
    ) -> None:
        """Keep the address; nothing is sent. `described` is the path of the model's description."""
        self.target = target
        self._model = model
        self._api = api
        self._described = described
        self._poll_s, self._down_grace_s = poll_s, down_grace_s

    @abstractmethod
    def usage(self, need: Need) -> Usage:
        """Return the seconds that will really be made, at their tier."""

    def billed(self, need: Need, result: Result) -> Usage:  # noqa: ARG002 - success is billed whole
        """Return the same: what was ordered is what is billed."""
        return self.usage(need)

    def lookup(self, attempt_id: str) -> Handle | None:
        """There is no list of jobs, and none can be asked for by an id of ours."""
        raise self._api.unknown(f"attempt {attempt_id} cannot be looked up")

    def follow(
        self, handle: Handle, *, on_event: OnEvent, deadline: Deadline, cancel: CancelToken
    ) -> Result:
        """Poll until the job has ended."""
        by = Following(
            service=self.service.name,
            look=self._look,
            outcome=self._outcome,
            stop=self._stop,
            goes_on=self.goes_on,
            poll_s=self._poll_s,
            down_grace_s=self._down_grace_s,
        )
        return follow(by, handle, on_event, deadline, cancel)

    def fetch(
        self,
        handle: Handle,  # noqa: ARG002 - the artifact says it all
        artifact: Artifact,
        sink: Sink,
        cancel: CancelToken,
        deadline: Deadline | None = None,
    ) -> None:
        """Write what came inside the answer, or GET it; the key goes to its own host only."""
        if artifact.data is not None:
            results.write(artifact, sink)
            return
        headers, local = self._way_to(artifact)
        _http.download(
            str(artifact.url),
            sink,
            local=local,
            pause=lambda seconds: pause(cancel, seconds),
            headers=headers,
            onward=True,
            deadline=deadline,
            cancel=cancel,
        )

    def cancel(self, handle: Handle) -> bool:
        """Stop the job where that can be done; return whether it is known to have ended."""
        return self._stop(handle.remote_id) is not None

    def health(self) -> Health:
        """GET the model's description, which costs nothing."""
        try:
            self._api.check(self._described)
        except PennyreelError as problem:
            return Health(self.name, False, str(problem), problem.hint, self.target)
        return Health(self.name, True, f"{self._model} answers", "", self.target)

    def close(self) -> None:
        """Close connections; jobs go on."""
        self._api.close()

    def _send(
        self, path: str, body: Mapping[str, Any], work: Work, limit: Deadline, *, named: str
    ) -> Handle:
        """POST the job, once; its answer has the job's id in the field `named`."""
        job_id = told_id(self._api.submit(path, body, limit).get(named))
        if job_id is None:
            raise self._api.unknown(f"{self.service.name}'s answer names no job")
        return Handle(self.name, self.target, job_id, work.attempt_id)

    @abstractmethod
    def _look(self, job_id: str) -> Look:
        """Look at a job, as `GoogleApi.read` raises."""

    @abstractmethod
    def _stop(self, job_id: str) -> Look | None:
        """End a job: its last look; None where it is not known to have stopped."""

    @abstractmethod
    def _outcome(self, body: Mapping[str, Any], handle: Handle) -> Result:
        """Return the result of a job that has ended, or raise what it came to."""

    @abstractmethod
    def _way_to(self, artifact: Artifact) -> tuple[Mapping[str, str] | None, bool]:
        """Return the headers to fetch a file with, and whether its host may be this machine.

        Raises:
            JobFailed: the artifact does not say where the file is.

        """
