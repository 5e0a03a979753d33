"""Takes jobs in the SDK's place: at most two, the second only when the first is near its end.

The SDK's loop sleeps a second when its slots are full, polls for as many jobs as it has slots, and
loses the job that it is handed while it shuts down. All of that is in one class, `JobScaler`, which
`runpod.serverless.start` looks up when it starts. `install` puts ours there; with another version
of the SDK than those tried, the stock loop stays, one job at a time, with a warning.

Everything else is the SDK's own: the polls' URLs, the handler's call, pings, fitness checks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import signal
import time
from collections.abc import Callable
from typing import Any, ClassVar

import aiohttp
import runpod
from runpod.http_client import AsyncClientSession, TooManyRequests
from runpod.serverless.modules import rp_http, rp_job, rp_scale

from pennyreel_contract import Code, error
from pennyreel_worker.app import STOP_S, Worker, too_late

log = logging.getLogger(__name__)

TRIED = ("1.12.0",)
_METHODS = ("get_jobs", "run_jobs", "handle_job", "stop_job", "monitor_stop_signals", "run")

POLL_S = 90.0
LATE_S = 2.0
"""How long a poll is heard out after SIGTERM: the platform may be writing a job to it."""

POST_S = 60.0
"""Limit of one post of a result."""

GIVE_UP_POST_S = 300.0
"""How long a result is posted again and again: it is paid for."""

CUT_OFF_POST_S = 5.0
"""The same, of a job that did not end when the worker had to: the platform is about to kill us."""

STOP_MEMORY_S = 5.0
"""How long a stop is remembered that came before its job, and a job that is over: a retried job
keeps its id."""

REFRESH_S = 10.0
"""How long the platform may take to end a worker that asked for it."""


def install(worker: Worker) -> bool:
    """Have the SDK's loop replaced by ours; False where it stays the stock one."""
    missing = [name for name in _METHODS if not hasattr(rp_scale.JobScaler, name)]
    if runpod.__version__ not in TRIED or missing:
        log.warning(
            "runpod %s is not a version that this worker was tried with (%s): its own loop takes "
            "the jobs, one at a time, and the GPU waits between them",
            runpod.__version__,
            ", ".join(TRIED),
        )
        return False
    Scaler.worker = worker
    rp_scale.JobScaler = Scaler
    return True


class Scaler(rp_scale.JobScaler):  # type: ignore[misc] # the SDK has no types
    """See the module."""

    worker: ClassVar[Worker]

    def __init__(self, config: dict[str, Any]) -> None:
        """Begin with no job."""
        super().__init__(config)
        self._leaving = asyncio.Event()
        self._changed = asyncio.Event()
        self._stopped: dict[str, float] = {}
        self._over: dict[str, float] = {}
        self._handling: set[str] = set()
        self._signals = 0
        self._refresh = False
        self._deaf = False
        self._backoff_s = 0.0

    async def run(self) -> None:
        """Take and answer jobs until told to stop; return when the last one is answered."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            # In the loop: a plain handler would set an event that a sleeping loop does not see.
            loop.add_signal_handler(number, self._signalled)
        self.worker.pace.on_change = lambda: _soon(loop, self._changed)
        self.worker.on_broken = lambda: _soon(loop, self._leaving)
        if self.worker.broken:
            self._leaving.set()
        if not self.is_alive():  # told to stop before our handlers were there
            self._signalled()
        async with AsyncClientSession() as session:
            stops = asyncio.create_task(self.monitor_stop_signals(session))
            try:
                await self._take(session)
                await self._drain()
                await self._cut_off(session)
                if self._refresh:
                    await self._until(lambda: self._signals > 0, REFRESH_S)
            finally:
                self._deaf = True
                stops.cancel()
                await asyncio.gather(stops, return_exceptions=True)

    async def _take(self, session: aiohttp.ClientSession) -> None:
        try:
            await self.get_jobs(session)
        except Exception:
            log.exception("taking jobs failed")
            self.worker.breaks("it cannot take jobs")

    async def get_jobs(self, session: aiohttp.ClientSession) -> None:
        """Ask whenever the pace allows it; return when leaving, the last poll heard out."""
        while not self._leaving.is_set():
            self._changed.clear()
            wait = self.worker.pace.wait_s()
            if wait != 0:
                await self._pause(wait)
                continue
            began = time.monotonic()
            jobs = await self._ask(session)
            for job in jobs:
                self.worker.pace.asked(time.monotonic() - began)
                self._begin(session, job)

    async def stop_job(self, job_id: str) -> bool:
        """Stop a job; one that is not here yet is remembered, since its stop overtook it."""
        if await super().stop_job(job_id):
            return True
        now = time.monotonic()
        for known in (self._stopped, self._over):
            for name in [j for j, t in known.items() if now - t >= STOP_MEMORY_S]:
                del known[name]
        if job_id not in self._over:  # else the stop was too late, and a retry may come
            self._stopped[job_id] = now
        return False

    async def monitor_stop_signals(self, session: aiohttp.ClientSession) -> None:
        """Hear of stops until cancelled; a poll that the platform held is followed at once."""
        if rp_job._job_stop_url() is None:  # noqa: SLF001 - the version is checked
            log.warning("the platform has no stop channel here: a cancelled job runs to its end")
            return
        # Not by the cancel alone: wait_for swallows one that meets its answer (before Python 3.12).
        while not self._deaf:
            began = time.monotonic()
            pause = 0.0
            try:
                for job_id in await asyncio.wait_for(self.stop_signals_fetcher(session), POLL_S):
                    await self.stop_job(job_id)
            except asyncio.TimeoutError:
                continue
            except TooManyRequests:
                pause = 5.0
            except Exception as problem:  # noqa: BLE001 - the channel has to live as long as we do
                log.warning("the poll for stops failed: %s", type(problem).__name__)
                pause = 1.0
            # An answer that was not held may be followed by another at once: do not spin.
            await asyncio.sleep(max(pause, 0.0 if time.monotonic() - began > 0.5 else 0.25))

    async def _ask(self, session: aiohttp.ClientSession) -> list[dict[str, Any]]:
        """Poll once. When leaving meanwhile, hear the poll out for a moment, refusing its job."""
        poll = asyncio.ensure_future(self._poll(session))
        leaving = asyncio.ensure_future(self._leaving.wait())
        try:
            await asyncio.wait({poll, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not self._leaving.is_set():
                return poll.result()
            # A poll that is cut may have a job on its way: it would be lost without a word.
            await asyncio.wait({poll}, timeout=LATE_S)
            for job in poll.result() if poll.done() else ():
                self._begin(session, job, refused=True)
            return []
        finally:
            for task in (poll, leaving):
                task.cancel()
            await asyncio.gather(poll, leaving, return_exceptions=True)

    async def _poll(self, session: aiohttp.ClientSession) -> list[dict[str, Any]]:
        try:
            jobs = await asyncio.wait_for(self.jobs_fetcher(session, 1), POLL_S)
        except asyncio.TimeoutError:
            return []
        except TooManyRequests:
            await self._rest(5.0)
            return []
        except Exception as problem:  # noqa: BLE001 - whatever it was, the next poll may work
            # With each failure longer, and never in step with other workers.
            self._backoff_s = min(max(0.2, self._backoff_s * 2), 10.0)
            log.warning("asking for a job failed: %s", type(problem).__name__)
            await self._rest(self._backoff_s * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            return []
        self._backoff_s = 0.0
        good = [j for j in jobs or () if isinstance(j, dict) and "id" in j and "input" in j]
        if len(good) != len(jobs or ()):
            log.error("the platform handed out what is no job")
        return good

    def _begin(
        self, session: aiohttp.ClientSession, job: dict[str, Any], *, refused: bool = False
    ) -> None:
        job_id = str(job["id"])
        if job_id in self.jobs_tasks:
            log.warning("handed out twice: it runs already", extra={"job": job_id})
            return
        if self._stopped.pop(job_id, None) is not None:
            log.info("stopped before it began", extra={"job": job_id})
            return
        self.job_progress.add(job_id)
        self.worker.pace.taken(job_id)
        run = self._refuse(session, job) if refused else self.handle_job(session, job)
        task = asyncio.create_task(run)
        self.jobs_tasks[job_id] = task
        task.add_done_callback(lambda done: self._ended(job_id, done))

    def _ended(self, job_id: str, task: asyncio.Task[Any]) -> None:
        self.job_progress.remove(job_id)
        self._over[job_id] = time.monotonic()
        if self.jobs_tasks.get(job_id) is task:
            del self.jobs_tasks[job_id]
        self.worker.pace.gone(job_id)
        if not task.cancelled() and (problem := task.exception()) is not None:
            log.error("unexpected: %s", problem, exc_info=problem, extra={"job": job_id})

    async def handle_job(self, session: aiohttp.ClientSession, job: dict[str, Any]) -> None:
        """Run one job through the SDK's own `run_job`, and post what comes of it."""
        self._handling.add(str(job["id"]))
        try:
            result = await rp_job.run_job(self.config["handler"], job)
        finally:
            self._handling.discard(str(job["id"]))
        if result.pop("stopPod", False):
            self._refresh = True
            self._leaving.set()
        # It would end the other job here as well: the last one to be answered says it.
        if self._refresh and not self._handling:
            await self._until(lambda: len(self.jobs_tasks) <= 1, REFRESH_S)
            result["stopPod"] = True
        await self._post(session, result, job)

    async def _refuse(self, session: aiohttp.ClientSession, job: dict[str, Any]) -> None:
        log.warning("taken too late: given back as failed", extra={"job": job["id"]})
        await self._post(session, {"error": too_late().info.encode()}, job)

    async def _post(
        self, session: aiohttp.ClientSession, result: dict[str, Any], job: dict[str, Any]
    ) -> None:
        """Post a result until it is taken; where it is refused, post that instead."""
        status = await self._send(session, result, job)
        if status is None or status < 400:
            return
        if "output" not in result:
            log.error("the platform refused its error (%s)", status, extra={"job": job["id"]})
            return
        problem = error(
            Code.RESULT_REFUSED,
            f"the platform refused the result of {len(_json(result))} bytes ({status})",
        )
        log.error("%s", problem, extra={"job": job["id"]})
        rest = {k: v for k, v in result.items() if k == "stopPod"}
        if await self._send(session, {"error": problem.info.encode(), **rest}, job) != 200:
            log.error("the platform does not take that, either", extra={"job": job["id"]})

    async def _send(
        self, session: aiohttp.ClientSession, result: dict[str, Any], job: dict[str, Any]
    ) -> int | None:
        """Return the platform's verdict, or None where it gave none in time."""
        url = _done_url(str(job["id"]))
        headers = {
            "charset": "utf-8",
            "Content-Type": "application/x-www-form-urlencoded",
            "X-Request-ID": str(job["id"]),
        }
        limit, pause, refusals = time.monotonic() + GIVE_UP_POST_S, 0.2, 0
        while True:
            status, why = await self._try_post(session, url, _json(result), headers)
            if status is not None and status < 400:
                return status
            # A refusal may be a hiccup, too: it is believed when it is repeated.
            refusals += status is not None and status < 500 and status != 429
            if refusals > 1:
                return status
            if time.monotonic() + pause > limit:
                log.error("its answer could not be posted: %s", why, extra={"job": job["id"]})
                return None
            log.warning("posting the answer failed (%s): again", why, extra={"job": job["id"]})
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            pause = min(pause * 2, 10.0)

    @staticmethod
    async def _try_post(
        session: aiohttp.ClientSession, url: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int | None, str]:
        limit = aiohttp.ClientTimeout(total=POST_S)
        try:
            async with session.post(url, data=body, headers=headers, timeout=limit) as reply:
                await reply.read()
                return reply.status, str(reply.status)
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as problem:
            return None, type(problem).__name__

    async def _drain(self) -> None:
        """Let the jobs here end; what cannot in time is given up, and posted as such."""
        # Broken or refreshing, with nobody waiting for us: as long as the jobs' deadlines allow.
        await self._until(lambda: not self.jobs_tasks or self._signals > 0)
        await self._until(
            lambda: not self.jobs_tasks or self._signals > 1, self.worker.settings.drain_s
        )
        if self.jobs_tasks:
            self.worker.give_up()
            await self._until(lambda: not self.jobs_tasks, STOP_S + LATE_S)

    async def _cut_off(self, session: aiohttp.ClientSession) -> None:
        """Answer the jobs that did not even end when they were given up."""
        answers = []
        for job_id, task in list(self.jobs_tasks.items()):
            log.error("cut off: there is no more time", extra={"job": job_id})
            if job_id in self._handling:  # else it has an answer, which is on its way
                problem = self.worker.abandoned(job_id)
                answers.append(
                    self._post(session, {"error": problem.info.encode()}, {"id": job_id})
                )
            task.cancel()
        if answers:
            await asyncio.wait([asyncio.ensure_future(a) for a in answers], timeout=CUT_OFF_POST_S)

    async def _until(self, done: Callable[[], bool], seconds: float | None = None) -> None:
        limit = None if seconds is None else time.monotonic() + seconds
        while not done():
            left = None if limit is None else limit - time.monotonic()
            if left is not None and left <= 0:
                return
            self._changed.clear()
            if not done():
                await self._pause(left, until_leaving=False)

    async def _pause(self, seconds: float | None, *, until_leaving: bool = True) -> None:
        """Wait for a change, at most `seconds`."""
        waits = [asyncio.ensure_future(self._changed.wait())]
        if until_leaving:
            waits.append(asyncio.ensure_future(self._leaving.wait()))
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _rest(self, seconds: float) -> None:
        """Wait, unless it is time to leave."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._leaving.wait(), seconds)

    def _signalled(self) -> None:
        self._signals += 1
        self.kill_worker()
        self._leaving.set()
        self._changed.set()


def _soon(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
        loop.call_soon_threadsafe(event.set)


def _done_url(job_id: str) -> str:
    return str(rp_http.JOB_DONE_URL.replace("$ID", job_id) + "&isStream=false")


def _json(result: dict[str, Any]) -> bytes:
    return json.dumps(result, ensure_ascii=False).encode("utf-8", "replace")


async def post_leftovers(ids: list[str]) -> None:
    """Post as failed what the stock loop took too late: it lists such jobs, and forgets them."""
    if not ids or not rp_http.JOB_DONE_URL.startswith("http"):
        return
    body = _json({"error": too_late().info.encode()})
    async with AsyncClientSession() as session:
        for job_id in ids:
            with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError):
                limit = aiohttp.ClientTimeout(10)
                async with session.post(_done_url(job_id), data=body, timeout=limit):
                    pass
