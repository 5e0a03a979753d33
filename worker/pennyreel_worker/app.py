"""What a worker process has: its ComfyUI, its bucket, its threads; and how a job passes through.

Each job has a thread of its own from end to end, and uploads have theirs: a job that waits for the
GPU never keeps another one's upload waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from pennyreel_comfy.addresses import parse, resolve
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import (
    Code,
    Info,
    JobRequest,
    PennyreelError,
    Result,
    error,
)
from pennyreel_worker import delivery, results
from pennyreel_worker.buckets import Bucket, make_bucket
from pennyreel_worker.comfy import Comfy
from pennyreel_worker.execution import CRASHES, unrepeatable
from pennyreel_worker.gate import Gate
from pennyreel_worker.gpu import GpuMemory
from pennyreel_worker.info import describe
from pennyreel_worker.job import Dialect, Job, Jobs
from pennyreel_worker.log import about, cleaned, log, redactor
from pennyreel_worker.pacing import Durations, Pace
from pennyreel_worker.reporting import Reporter
from pennyreel_worker.settings import Settings
from pennyreel_worker.startup import Startup
from pennyreel_worker.storage import Store
from pennyreel_worker.whose import JobPool

STOP_S = 15.0
"""How long a cancelled job may take to leave its thread before the next one is taken."""

MAX_KEY = 1024
"""Characters of a key that a job brings."""

OVERDUE_S = 30.0
"""How long after its deadline a job may take to leave its thread. What takes longer is a call that
nothing ends, such as a read from a network volume that hangs."""

HOPELESS_CRASHES = 3
"""Jobs that may end with a crash or a hang in a row: then another machine should be tried."""

STORES = 4
"""Clients kept for buckets that jobs bring themselves."""

_FOREVER_S = 1e9

T = TypeVar("T")
PostProgress = Callable[[dict[str, Any], dict[str, Any]], Awaitable[None]]


@dataclass(eq=False)
class _Attempt:
    """An attempt under way in this process."""

    digest: str
    future: asyncio.Future[Result]
    job: Job | None = None


class Worker:
    """Runs jobs. One a process."""

    def __init__(
        self,
        settings: Settings,
        comfy: Comfy,
        post: PostProgress,
        *,
        startup: Startup | None = None,
        memory: GpuMemory | None = None,
    ) -> None:
        """Build the pools; `post` sends one progress body for one of the platform's jobs."""
        self.settings = settings
        self.comfy = comfy
        self.pace = Pace(settings.hold, settings.lead_s)
        self.durations = Durations()
        self.broken: str | None = None
        """Why the platform should replace this worker; see `breaks`."""

        self.on_broken: Callable[[], None] = lambda: None
        self._startup = startup or Startup()
        self._memory = memory or GpuMemory(None)
        self._jobs = Jobs()
        self._live: set[Job] = set()
        self._gate = Gate()
        self._giving_up = False
        self._crashes = 0
        self._post = post
        self._store = Store(settings.bucket) if settings.bucket else None
        self._stores: dict[Bucket, Store] = {}
        self._work = JobPool(settings.hold + 2, "job")
        self._side = JobPool(4, "side")
        self._upload = JobPool(4, "upload")
        self._cleaning: dict[str, Future[None]] = {}
        self._running: dict[str, _Attempt] = {}
        self._lock = threading.Lock()

    async def run(
        self,
        request: JobRequest,
        platform_job: Mapping[str, Any],
        dialect: Dialect | None = None,
    ) -> Result:
        """Run one job, or join the same attempt where it is already under way here.

        Args:
            request: what to run.
            platform_job: as the platform gave it.
            dialect: what a request of the stock worker's asks for besides.

        """
        digest, attempt_id = results.digest(request), request.attempt_id
        while True:
            if (other := self._running.get(attempt_id)) is not None:
                result = await self._join(other, digest, request)
                if result is not None:
                    delivery.check_size(result, str(platform_job["id"]), self.settings)
                    return result
            elif (cleaning := self._cleaning.get(attempt_id)) is not None:
                # The same attempt once more: its former folders have to be gone, not to go.
                await asyncio.wait({asyncio.wrap_future(cleaning)}, timeout=STOP_S)
                self._cleaning.pop(attempt_id, None)
            else:
                break
        if self._giving_up:
            raise too_late()
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        # Nobody may be waiting: then its exception is not "never retrieved".
        future.add_done_callback(lambda f: f.cancelled() or f.exception())
        attempt = self._running[attempt_id] = _Attempt(digest, future)
        try:
            result = await self._run(request, platform_job, dialect, attempt)
            future.set_result(result)
            return result
        except Exception as problem:
            future.set_exception(problem)
            raise
        finally:
            future.cancel()
            del self._running[attempt_id]

    @staticmethod
    async def _join(other: _Attempt, digest: str, request: JobRequest) -> Result | None:
        """Wait for the same attempt; None where it was cancelled, and the work is ours now."""
        if other.digest != digest:
            raise results.conflict(request)
        await asyncio.wait({other.future})
        if not other.future.cancelled():
            return results.replayed(other.future.result(), request)
        if other.job is not None and other.job.charged:
            raise unrepeatable(error(Code.CANCELLED, "this attempt was cancelled while it ran"))
        return None

    async def info(self) -> dict[str, Any]:
        """Answer an info request."""
        loop = asyncio.get_running_loop()
        return (await loop.run_in_executor(self._side, self.describe)).wire()

    def describe(self) -> Info:
        """Return what this worker is. Blocking."""
        session = self.comfy.living()
        if session is None:
            # Starting it anew may end what runs: only with the GPU's turn.
            limit, free = Deadline(self.settings.start_s), CancelToken()
            with self._gate.turn(limit, free):
                session = self.comfy.ready(limit)
        return describe(
            self.comfy,
            self.settings,
            session=session,
            nodes=tuple(self.comfy.catalogue() or ()),
            packs=self.comfy.packs(),
            features=("models_by_url", "preflight", "rerun"),
            uptime_s=self._startup.uptime_s(),
        )

    def breaks(self, why: str) -> None:
        """Take no more jobs, and have the platform replace this worker."""
        if self.broken is None:
            log.error("this worker has to be replaced: %s", why)
            self.broken = why
            self.on_broken()

    def give_up(self) -> None:
        """End the jobs that are left: the worker has no more time for them."""
        self._giving_up = True
        for job in list(self._live):
            log.warning("given up: the worker has to stop", extra={"job": job.job_id})
            job.cancel.cancel()

    def abandoned(self, job_id: str) -> PennyreelError:
        """Return the error of a job that is left behind because the worker has to stop."""
        job = next((job for job in list(self._live) if job.job_id == job_id), None)
        return too_late() if job is None else _given_up(job)

    def settle(self) -> None:
        """Wait until nothing is left of the jobs that were answered. Blocking."""
        wait(list(self._cleaning.values()), timeout=STOP_S)

    def close(self) -> None:
        """End the pools; no job is running any more."""
        self.settle()
        for pool in (self._work, self._side, self._upload):
            pool.shutdown(wait=False, cancel_futures=True)
        for store in (self._store, *self._stores.values()):
            if store is not None:
                store.close()

    async def _run(
        self,
        request: JobRequest,
        platform_job: Mapping[str, Any],
        dialect: Dialect | None,
        attempt: _Attempt,
    ) -> Result:
        body, store = dict(platform_job), self._store
        api_key = (dialect.api_key if dialect else None) or self.settings.comfy_org_api_key
        secrets = _secrets(api_key, body)
        if body.get("s3Config"):  # a client takes a second to build
            loop = asyncio.get_running_loop()
            store = await loop.run_in_executor(self._side, self._store_of, body)
        # The stock worker posts no progress, and its clients may take any output for the result.
        post = _silent if dialect is not None else lambda progress: self._post(body, progress)
        reporter = Reporter(post)
        job = Job(
            request=request,
            job_id=str(platform_job["id"]),
            settings=self.settings,
            comfy=self.comfy,
            store=store,
            reporter=reporter,
            gate=self._gate,
            pace=self.pace,
            durations=self.durations,
            others=self._jobs,
            memory=self._memory,
            dialect=dialect,
            api_key=api_key,
        )
        attempt.job = job
        redactor.add(secrets)  # until it is cleaned up: ComfyUI's last lines come late
        try:
            with about(job.job_id, request.attempt_id):
                return await self._stages(job)
        except PennyreelError as problem:
            raise _told(problem) from None
        finally:
            self._clean(job, secrets)
            if (posting := reporter.stop()) is not None:
                await asyncio.shield(posting)

    async def _stages(self, job: Job) -> Result:
        self._live.add(job)
        if self._giving_up:
            job.cancel.cancel()
        try:
            result = await self._in(job, lambda: job.run(self._upload))
            self._crashes = 0
            return result
        except PennyreelError as problem:
            if problem.code == Code.DISK_FULL.value:  # is it full of this job, or without it?
                await asyncio.get_running_loop().run_in_executor(self._side, self._make_room, job)
            if self._giving_up and job.cancel.cancelled:
                raise _given_up(job) from None
            self._judge(problem)
            raise unrepeatable(problem) if job.charged else problem from None
        finally:
            self._live.discard(job)

    def _judge(self, problem: PennyreelError) -> None:
        """See whether a job's end shows that no job can end well here."""
        if self.comfy.hopeless:
            self.breaks("ComfyUI does not start")
        self._crashes += problem.code in CRASHES
        if self._crashes >= HOPELESS_CRASHES:
            self.breaks("ComfyUI crashes or hangs in job after job")

    def _clean(self, job: Job, secrets: Iterable[str | None]) -> None:
        """Remove what is left of a job, while its answer is on its way to the platform."""
        attempt, cleaned = job.request.attempt_id, Future[None]()

        def clean() -> None:
            try:
                spent = {stage: round(s, 3) for stage, s in job.timings.items()}
                names = {"job": job.job_id, "attempt": attempt, "event": "ended", "seconds": spent}
                log.info("ended: %s", spent, extra=names)
                job.clean()
                self._check_room()
            except Exception:  # noqa: BLE001 - the next job is not to wait for this for ever
                log.exception("cleaning up failed", extra={"job": job.job_id})
            finally:
                with self._jobs.lock:
                    self._jobs.discard(job)
                redactor.remove(secrets)
                if self._cleaning.get(attempt) is cleaned:
                    del self._cleaning[attempt]
                cleaned.set_result(None)

        self._cleaning[attempt] = cleaned
        # Not before the answer: its thread would take the interpreter's lock from this one.
        asyncio.get_running_loop().call_soon(self._side.submit, clean)

    def _make_room(self, job: Job) -> None:
        job.clean()
        self._check_room()

    def _check_room(self) -> None:
        """See whether this worker can take another job, now that the last one's files are gone."""
        with contextlib.suppress(OSError):
            if self.comfy.room() < self.settings.least_free_bytes:
                self.breaks("its disk is full")

    async def _in(self, job: Job, call: Callable[[], T]) -> T:
        """Run a job's work. A cancelled task cancels the job and waits until it has stopped."""
        inner: Future[T] = self._work.submit(call)
        future = asyncio.wrap_future(inner)
        # Of a cancelled job nobody asks how it ended.
        future.add_done_callback(lambda f: f.cancelled() or f.exception())
        try:
            await asyncio.wait({future}, timeout=self._patience_s(job))
            return future.result() if future.done() else self._overdue(job)
        except asyncio.CancelledError:
            job.cancel.cancel()
            inner.cancel()  # if it has not begun, it never does
            limit = asyncio.get_running_loop().time() + STOP_S
            while not inner.done() and (left := limit - asyncio.get_running_loop().time()) > 0:
                with contextlib.suppress(asyncio.CancelledError):  # a stop may come twice
                    await asyncio.wait({future}, timeout=left)
            if not inner.done():
                log.error("a cancelled job does not end", extra={"job": job.job_id})
                self.breaks("a cancelled job does not end")
            raise

    @staticmethod
    def _patience_s(job: Job) -> float:
        return job.deadline.left(_FOREVER_S) + OVERDUE_S

    def _overdue(self, job: Job) -> NoReturn:
        job.cancel.cancel()
        self.breaks("a job does not end at its deadline")
        raise job.deadline.error("a job that hangs")

    def _store_of(self, platform_job: Mapping[str, Any]) -> Store | None:
        """Return the job's own bucket (the platform's s3Config), else the operator's."""
        given = platform_job.get("s3Config")
        if not isinstance(given, dict) or not given.get("endpointUrl"):
            return self._store
        try:
            bucket = make_bucket(
                str(given["endpointUrl"]),
                str(given.get("accessId", "")),
                str(given.get("accessSecret", "")),
                bucket=str(given.get("bucketName") or "") or None,
            )
        except ValueError as problem:
            raise error(Code.BAD_REQUEST, f"s3Config.endpointUrl {problem}") from None
        if bucket.endpoint_url is not None:  # a stranger's URL, like any input's
            resolve(parse(bucket.endpoint_url), "s3Config.endpointUrl", self.settings.allow_hosts)
        with self._lock:
            if bucket not in self._stores:
                # Keep few: a client is 10 MB, and callers repeat. Others may still be in use.
                while len(self._stores) >= STORES:
                    self._stores.pop(next(iter(self._stores)))
                self._stores[bucket] = Store(bucket, allow_hosts=self.settings.allow_hosts)
            return self._stores[bucket]


def too_late() -> PennyreelError:
    """Return the error of a job that was taken when the worker had been told to stop."""
    return error(Code.WORKER_STOPPING, "the worker was told to stop as it took this job")


def _given_up(job: Job) -> PennyreelError:
    again = not job.charged
    return error(
        Code.WORKER_STOPPING,
        "the worker was told to stop before this job could end",
        hint=None if again else "It has paid API nodes, which may have run: check first.",
        retryable=again,
    )


def _secrets(api_key: str | None, platform_job: Mapping[str, Any]) -> list[str | None]:
    """Return what no log may show of a job.

    Raises:
        BadRequest: a key is longer than any is: to look for it in each line takes a pattern that
            is a hundred times as long, and all jobs would wait for its making.

    """
    given = platform_job.get("s3Config")
    keys = ("accessId", "accessSecret")
    secrets = [api_key, *(str(given.get(k) or "") for k in keys if isinstance(given, dict))]
    if any(len(secret or "") > MAX_KEY for secret in secrets):
        raise error(Code.BAD_REQUEST, f"a key of this job has more than {MAX_KEY} characters")
    return secrets


def _told(problem: PennyreelError) -> PennyreelError:
    """Return the error as the client may see it: a node's own words may quote a key."""
    info = problem.info
    return error(
        Code(info.code),
        redactor.clean(info.message),
        hint=redactor.clean(info.hint),
        retryable=info.retryable,
        detail=cleaned(info.detail),
    )


async def _silent(_: dict[str, Any]) -> None:
    """Post nothing."""
