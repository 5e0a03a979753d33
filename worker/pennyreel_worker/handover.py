"""Which way a job's outputs go: inline or to the bucket, and the other one where that fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Artifact, Code, JobFailed, JobRequest, Result, error
from pennyreel_worker import delivery
from pennyreel_worker.delivery import Made
from pennyreel_worker.settings import Settings
from pennyreel_worker.storage import Store

Describe = Callable[[tuple[Artifact, ...]], Result]


@dataclass(frozen=True)
class Handover:
    """The delivery of one job."""

    request: JobRequest
    job_id: str
    settings: Settings
    store: Store | None
    deadline: Deadline
    cancel: CancelToken
    tell: Callable[[float], None]
    """Told what share of the bytes has gone to the bucket, from 0 to 1, in any thread."""

    warn: Callable[[str], None]

    def of(self, made: Sequence[Made], describe: Describe, uploads: Executor) -> Result:
        """Deliver as asked, or by the bucket where it is too large to be returned inline.

        `describe` makes the result of the artifacts; what was warned of by then is in it.

        Raises:
            SetupNeeded: the bucket was asked for, and there is none.
            JobFailed: `result_too_large`, `storage_failed`, `output_missing`, `disk_full`.
            JobTimeout: the job's deadline passed.

        """
        how, limit = self.request.outputs.delivery, delivery.limit_of(self.job_id, self.settings)
        if self.store is None and how == "s3":
            raise error(
                Code.NOT_CONFIGURED,
                "delivery by S3 was asked for, and this worker has no bucket",
                hint="Set BUCKET_* on the endpoint, or ask for inline delivery.",
            )
        if self.store is None or how == "inline":
            artifacts = delivery.inline(made, limit=limit)
            result = None if artifacts is None else describe(artifacts)
            if result is not None and delivery.fits(result, limit):
                return result
            if self.store is None:
                raise delivery.too_large(made, limit)
            self.warn("too large to return inline: delivered by S3")
        result = describe(self._stored(made, self.store, uploads, limit))
        if not delivery.fits(result, limit):  # thousands of files, each with a long URL
            raise delivery.too_large(made, limit)
        return result

    def _stored(
        self, made: Sequence[Made], store: Store, uploads: Executor, limit: int
    ) -> tuple[Artifact, ...]:
        try:
            return delivery.to_store(
                made,
                store,
                request=self.request,
                job_id=self.job_id,
                template=self.settings.key_template,
                pool=uploads,
                deadline=self.deadline,
                cancel=self.cancel,
                progress=self.tell,
            )
        except JobFailed as problem:
            # It is made and paid for: hand it over as it may be, rather than not at all.
            auto = self.request.outputs.delivery == "auto"
            artifacts = delivery.inline(made, limit=limit) if auto else None
            if artifacts is None or problem.code != Code.STORAGE_FAILED.value:
                raise
            self.warn(f"returned inline, since the bucket failed: {problem}")
            return artifacts
