"""From a backend's result to files on this disk, each whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pennyreel import types
from pennyreel.backends.base import Backend
from pennyreel.errors import Code, JobCancelled, JobFailed, JobTimeout, Unavailable, error
from pennyreel.saving import PartFile
from pennyreel.types import Artifact, Handle, JobEvent
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Artifact as RemoteArtifact
from pennyreel_contract import Result

MAX_ARTIFACTS = 10_000
"""Files taken of one job: minutes of single frames, and no folder that cannot be opened."""

_GONE = frozenset({Code.RESULT_EXPIRED.value, Code.OUTPUT_MISSING.value})
"""A file that failed so is not there any more: fetching it again cannot help."""


@dataclass(frozen=True)
class Fetching:
    """Where a job's files come from, and where they go."""

    backend: Backend
    handle: Handle
    out_dir: Path
    deadline: Deadline
    cancel: CancelToken
    again: str
    """The command that fetches them again."""
    tell: Callable[[JobEvent], None] = lambda _: None

    def all(self, result: Result) -> tuple[Artifact, ...]:
        """Save every file of a result.

        Raises:
            JobFailed: a file is not there any more; `result_refused`, there are too many.
            JobFailed, JobCancelled, JobTimeout: it could not be saved now; the job itself is done
                and paid for, and the hint says how to fetch again.

        """
        if len(result.artifacts) > MAX_ARTIFACTS:
            raise error(
                Code.RESULT_REFUSED,
                f"the result names {len(result.artifacts)} files; {MAX_ARTIFACTS} are taken",
                hint="The job is done: fetch them from its backend yourself.",
                detail={"handle": str(self.handle)},
            )
        saved = []
        for artifact in result.artifacts:
            one = self.one(artifact)
            saved.append(one)
            self.tell(types.ArtifactSaved(one))
        return tuple(saved)

    def one(self, artifact: RemoteArtifact) -> Artifact:
        """Save one file; see `all`."""
        try:
            return self._fetch(artifact)
        except (JobCancelled, JobTimeout, JobFailed, Unavailable) as problem:
            if problem.code in _GONE:
                raise
            again = f"etch it again: {self.again}"
            code = Code.STORAGE_FAILED
            if isinstance(problem, (JobCancelled, JobTimeout)):
                code = Code.TIMEOUT if isinstance(problem, JobTimeout) else Code.CANCELLED
            # This disk's failures say what to do about them.
            known = problem.code == code.value and problem.hint != error(code, "").hint
            raise error(
                code,
                f"{problem}; the job is done",
                retryable=False,
                hint=f"{problem.hint} Then f{again}" if known else f"F{again}",
                detail={"handle": str(self.handle), "confirmed_stopped": True},
            ) from problem

    def _fetch(self, artifact: RemoteArtifact) -> Artifact:
        with PartFile(self.out_dir, artifact.name, check=self.cancel.check) as part:
            self.backend.fetch(self.handle, artifact, part, self.cancel, self.deadline)
            # A backend that cannot know size and sha256 beforehand says 0 and "".
            known = bool(artifact.sha256)
            path = part.commit(sha256=artifact.sha256, size=artifact.bytes if known else None)
            return Artifact(
                name=path.name,
                kind=artifact.kind,
                mime=artifact.mime,
                bytes=part.size,
                sha256=part.sha256,
                path=path,
                node=artifact.node,
            )
