"""Held polls: workers that wait for a job or for a stop.

A job is handed to the poll that has waited longest and whose connection is alive; if the answer
cannot be written, or is found not to have been read, the job goes back to the head of the queue.
So a dead worker's open poll never swallows a job, and no job is handed out twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from pennyreel_emulators.runpod.delivery import Deliveries
from pennyreel_emulators.runpod.http import connected, send
from pennyreel_emulators.runpod.jobs import Job
from pennyreel_emulators.runpod.roster import Roster
from pennyreel_emulators.runpod.store import JobStore

BARRED_S = 0.5


@dataclass(eq=False)
class _Poll:
    request: web.Request
    worker_id: str
    count: int
    answer: asyncio.Future[list[Job]]


class Polls:
    """The open job-take and job-stop polls of one endpoint."""

    def __init__(
        self,
        store: JobStore,
        roster: Roster,
        hold_s: float,
        running: Callable[[str], bool],
    ) -> None:
        self._store = store
        self._roster = roster
        self._hold_s = hold_s
        # False for a fleet worker whose process has ended or is being stopped.
        self._running = running
        self._waiting: list[_Poll] = []
        self._deliveries = Deliveries()

    async def take(
        self, request: web.Request, worker_id: str, count: int, *, batch: bool
    ) -> web.StreamResponse:
        """Answer a job-take poll: a job (a list of them for a batch), or 204 after the hold."""
        if not self._running(worker_id):
            # It is being stopped. A pause, because the SDK polls again at once after a 204.
            await asyncio.sleep(BARRED_S)
            return web.Response(status=204)
        poll = _Poll(request, worker_id, count, asyncio.get_running_loop().create_future())
        self._waiting.append(poll)
        self.match()
        await asyncio.wait([poll.answer], timeout=self._hold_s)
        # No await between here and the end of the poll's offer: it cannot be matched any more.
        if poll in self._waiting:
            self._waiting.remove(poll)
        jobs = poll.answer.result() if poll.answer.done() else []
        if not jobs:
            return web.Response(status=204)
        shown = [job.for_worker() for job in jobs]
        response = web.json_response(shown if batch else shown[0])
        try:
            if not self._running(worker_id):
                raise ConnectionAbortedError("the worker's process is gone")
            await send(request, response)
        except ConnectionError:
            self._store.put_back(jobs, worker_id)
            self.match()
        else:
            self._deliveries.watch(request, worker_id, jobs)
        return response

    async def stops(self, request: web.Request, worker_id: str) -> web.StreamResponse:
        """Answer a job-stop poll: `{"jobsToStop": […]}`, or 204 after the hold."""
        contact = self._roster.heard(worker_id)
        if not contact.stops and not contact.barred:
            contact.wake.clear()
            waiter = asyncio.ensure_future(contact.wake.wait())
            await asyncio.wait([waiter], timeout=self._hold_s)
            waiter.cancel()
        if not contact.stops:
            return web.Response(status=204)
        jobs, contact.stops = contact.stops, []
        response = web.json_response({"jobsToStop": jobs})
        try:
            await send(request, response)
        except ConnectionError:
            contact.stops = jobs + contact.stops
        return response

    def match(self) -> None:
        """Hand queued jobs to waiting polls, longest wait first."""
        while len(self._store):
            poll = self._next_alive()
            if poll is None:
                return
            jobs = self._store.take(poll.worker_id, poll.count)
            if not jobs:
                self._waiting.insert(0, poll)
                return
            poll.answer.set_result(jobs)

    def release(self, worker_id: str | None = None) -> None:
        """Let the polls of one worker (or of all) go, with 204."""
        for poll in list(self._waiting):
            if worker_id in {None, poll.worker_id}:
                self._waiting.remove(poll)
                poll.answer.set_result([])

    def heard(self, request: web.Request) -> None:
        """A worker makes a request: what was written to this connection before has been read."""
        self._deliveries.confirm(request.transport)

    def close(self) -> None:
        """Let every poll go and watch no more."""
        self.release()
        self._deliveries.close()

    def tick(self) -> None:
        """Forget polls whose connection has ended; take back jobs that were never read."""
        lost = self._deliveries.unread()
        for handed in lost:
            self._store.put_back(handed.jobs, handed.worker_id)
        if lost:
            self.match()
        for poll in list(self._waiting):
            if not connected(poll.request):
                self._waiting.remove(poll)
                poll.answer.set_result([])

    def _next_alive(self) -> _Poll | None:
        while self._waiting:
            poll = self._waiting.pop(0)
            if self._running(poll.worker_id) and connected(poll.request):
                return poll
            poll.answer.set_result([])
        return None
