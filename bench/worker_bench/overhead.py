"""Figure 2: what the handler adds to a plain websocket client, on one ComfyUI, call by call."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import requests
import websocket

from pennyreel_comfy.waiting import CancelToken
from pennyreel_contract import new_attempt_id
from pennyreel_worker.app import Worker
from pennyreel_worker.comfy import Comfy
from pennyreel_worker.handler import handle
from pennyreel_worker.log import set_up
from pennyreel_worker.settings import Settings
from worker_bench import graphs
from worker_bench.comfyui import Place, end
from worker_bench.sink import running_sink

FOREIGN = Path(__file__).with_name("foreign.py")
WARM = 10
GAP_S = 0.01


def measure(place: Place, pairs: int, *, stock: str | None) -> dict[str, Any]:
    """Alternate ours and plain calls (and the stock handler's, where given), all warm."""
    with contextlib.ExitStack() as stack:
        # The worker's log is written, as in its own process, but not shown.
        log = stack.enter_context((place.root / "worker.log").open("w", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stderr(log))
        sink = stack.enter_context(running_sink())
        set_up()
        taken = asyncio.run(_measure(place, pairs, stock, sink))
    middle = {name: 1000 * statistics.median(values) for name, values in taken.items()}
    found: dict[str, Any] = {f"{name}_ms": round(value, 2) for name, value in middle.items()}
    paired = [1000 * (a - b) for a, b in zip(taken["ours"], taken["plain"], strict=True)]
    found["overhead_ms"] = round(middle["ours"] - middle["plain"], 2)
    found["overhead_paired_ms"] = round(statistics.median(paired), 2)
    if stock is not None:
        found["stock_overhead_ms"] = round(middle["stock"] - middle["plain"], 2)
    return found


async def _measure(
    place: Place, pairs: int, stock: str | None, sink: str
) -> dict[str, list[float]]:
    async with _our_worker(place, sink) as worker:
        url = worker.comfy.process.url
        with contextlib.ExitStack() as stack:
            calls: dict[str, Callable[[], Any]] = {}
            plain = stack.enter_context(contextlib.closing(_Plain(url)))
            calls["plain"] = plain.call
            if stock is not None:
                log = place.root / "stock.log"
                calls["stock"] = stack.enter_context(_stock(stock, url, log))
            taken: dict[str, list[float]] = {name: [] for name in ("ours", *calls)}
            for turn in range(WARM + pairs):
                ours = await _ours(worker, turn)
                await asyncio.to_thread(worker.settle)  # its cleaning up slows no other's call
                spent = {"ours": ours, **{name: call() for name, call in calls.items()}}
                for name, value in spent.items():
                    taken[name] += [value] if turn >= WARM else []
    return taken


async def _ours(worker: Worker, turn: int) -> float:
    body = {"contract": 1, "attempt_id": new_attempt_id(), "workflow": graphs.tiny()}
    await asyncio.sleep(GAP_S)  # nothing of the former call is under way
    began = time.perf_counter()
    answer = await handle(worker, {"id": f"bench-{turn}", "input": body})
    spent = time.perf_counter() - began
    if "error" in answer or not answer["artifacts"][0]["data"]:
        raise SystemExit(f"the handler answered {answer}")
    return spent


@contextlib.asynccontextmanager
async def _our_worker(place: Place, sink: str) -> AsyncIterator[Worker]:
    """Build the worker as its process does, with progress that is really posted."""
    settings = Settings.from_env({**place.worker_environment(), "PATH": os.environ["PATH"]})
    comfy = Comfy(settings)
    try:
        comfy.start()
        await asyncio.to_thread(comfy.first_ready, CancelToken())
        async with aiohttp.ClientSession() as http:

            async def post(job: dict[str, Any], progress: dict[str, Any]) -> None:
                body = json.dumps({"status": "IN_PROGRESS", "output": progress})
                async with http.post(f"{sink}/job-done/{job['id']}", data=body.encode()) as reply:
                    await reply.read()

            worker = Worker(settings, comfy, post)
            try:
                yield worker
            finally:
                worker.close()
    finally:
        await asyncio.to_thread(comfy.stop)


class _Plain:
    """The least that gets a result: one websocket and one HTTP connection, both kept open."""

    def __init__(self, url: str) -> None:
        self._url, self._client = url, uuid.uuid4().hex
        self._http = requests.Session()
        self._http.trust_env = False
        self._socket = websocket.create_connection(
            f"{url.replace('http', 'ws', 1)}/ws?clientId={self._client}", timeout=60
        )

    def close(self) -> None:
        """Close both."""
        self._socket.close()
        self._http.close()

    def call(self) -> float:
        """Submit, wait for the announced end, and read /history. Seconds."""
        graph = graphs.tiny()
        time.sleep(GAP_S)
        began = time.perf_counter()
        body = {"prompt": graph, "client_id": self._client}
        key = self._http.post(f"{self._url}/prompt", json=body).json()["prompt_id"]
        while not self._ended(key):
            pass
        history = self._http.get(f"{self._url}/history/{key}").json()
        while key not in history:  # it lags behind the announcement by a moment
            history = self._http.get(f"{self._url}/history/{key}").json()
        spent = time.perf_counter() - began
        if not history[key]["outputs"]:
            raise SystemExit("plain ComfyUI made no output")
        return spent

    def _ended(self, key: str) -> bool:
        said = self._socket.recv()
        if not isinstance(said, str):
            return False
        message = json.loads(said)
        return bool(message["type"] == "execution_success" and message["data"]["prompt_id"] == key)


@contextlib.contextmanager
def _stock(handler: str, url: str, log: Path) -> Iterator[Callable[[], float]]:
    """Run another handler in a process of its own; it times its calls itself."""
    env = {**os.environ, "BENCH_COMFY_HOST": url.removeprefix("http://")}
    with log.open("w", encoding="utf-8") as sink:
        child = subprocess.Popen(
            [sys.executable, str(FOREIGN), "time", handler],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sink,
            env=env,
            text=True,
        )
    turns = iter(range(10**6))

    def call() -> float:
        if child.stdin is None or child.stdout is None:
            raise SystemExit("no pipes")
        job = {"id": f"stock-{next(turns)}", "input": {"workflow": graphs.tiny()}}
        time.sleep(GAP_S)
        print(json.dumps(job), file=child.stdin, flush=True)
        answer = json.loads(child.stdout.readline() or '{"error": "it ended"}')
        if answer["error"]:
            said = log.read_text("utf-8", "replace")[-3000:]
            raise SystemExit(f"{handler}: {answer['error']}\n{said}")
        return float(answer["seconds"])

    try:
        yield call
    finally:
        end(child)
