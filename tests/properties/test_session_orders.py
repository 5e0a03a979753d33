"""The session under any order of news: true, false, doubled, lost, late, and of other jobs.

A plan travels in each graph; the scripted server plays it. What /history says in the end is the
truth, and all that a job may ever come to.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.comfyui import FakeComfy, Prompt
from fakes.waits import eventually
from pennyreel_comfy.events import Event, Image, parse
from pennyreel_comfy.http import ComfyHttp
from pennyreel_comfy.session import Run, Session
from pennyreel_comfy.tracker import Tracker
from pennyreel_comfy.waiting import Deadline
from pennyreel_contract import JobFailed, PennyreelError
from properties.steady import STEADY

LIMIT_S = 30.0
ENDLESS_S = 0.4
SLACK_S = 15.0
"""What stopping a job and a busy machine may add to a limit."""

NODES = ("1", "2", "3")
CODES = {
    "success": {""},
    "failed": {"execution_failed"},
    "memory": {"out_of_memory"},
    "silent": {"execution_failed"},
    "interrupted": {"cancelled"},
    "vanished": {"cancelled", "output_missing", "comfy_crashed"},
    "endless": {"timeout"},
}

_number = st.sampled_from([0, 1, 2, 10, -1, 0.5])
_news: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        [
            ["execution_start", {}],
            ["execution_success", {}],
            ["execution_error", {"node_id": "1", "exception_message": "a lie"}],
            ["execution_interrupted", {}],
            ["executing", {"node": None}],
            ["executed", {"node": "1", "output": {"images": []}}],
            ["no_such_type", {}],
            ["progress", {"node": "1"}],
        ]
    ),
    st.builds(lambda n: ["executing", {"node": n}], st.sampled_from(NODES)),
    st.builds(lambda n: ["execution_cached", {"nodes": n}], st.lists(st.sampled_from(NODES))),
    st.builds(
        lambda n, v, m: ["progress", {"node": n, "value": v, "max": m}],
        st.sampled_from((*NODES, "77")), _number, _number,
    ),
    st.builds(
        lambda n, v, m, s: ["progress_state", {"nodes": {n: {"value": v, "max": m, "state": s}}}],
        st.sampled_from(NODES), _number, _number, st.sampled_from(["running", "finished", "x"]),
    ),
)  # fmt: skip
# 0 = of the job itself; else of another one, or of a stranger's.
_step = st.one_of(
    st.tuples(st.just("news"), _news, st.sampled_from([0, 0, 0, 1, 2, 9])),
    st.tuples(st.just("twice"), _news, st.just(0)),
    st.sampled_from([("drop", None, 0), ("garbage", None, 0), ("picture", None, 0)]),
    st.sampled_from([("read", None, 0), ("truth", None, 0)]),
)
_plan = st.fixed_dictionaries(
    {"truth": st.sampled_from(sorted(CODES)), "steps": st.lists(_step, max_size=10)}
)


async def script(fake: FakeComfy, prompt: Prompt) -> None:
    """Play the plan; the truth comes where it stands in it, or in the end."""
    plan = json.loads(prompt.graph["1"]["inputs"]["plan"])
    told = False
    for kind, news, whose in plan["steps"]:
        if kind == "truth" and not told:
            told = True
            await tell_the_truth(fake, prompt, plan["truth"])
        with contextlib.suppress(ConnectionError):  # a websocket that was dropped takes no news
            await act(fake, prompt, kind, news, whose)
    if not told:
        await tell_the_truth(fake, prompt, plan["truth"])


async def act(fake: FakeComfy, prompt: Prompt, kind: str, news: Any, whose: int) -> None:
    if kind == "drop":
        await fake.drop(prompt)
    elif kind == "garbage":
        await fake.send_raw(prompt.client, '{"type": 5, "data": []}')
    elif kind == "picture":
        await fake.send_raw(prompt.client, struct.pack(">II", 1, 2) + prompt.id.encode())
    elif kind == "read":  # /history is read again before anything else happens
        asked = len(fake.requests)
        for _ in range(20):
            if ("GET", f"/history/{prompt.id}") in fake.requests[asked:]:
                break
            await asyncio.sleep(0.005)
    elif kind in {"news", "twice"}:
        others = [p.id for p in (*fake.prompts, *fake.pending) if p is not prompt]
        stranger = "00000000-0000-4000-8000-000000000000"
        about = prompt.id if whose == 0 else others[-whose] if whose <= len(others) else stranger
        name, data = news
        message = json.dumps({"type": name, "data": {"prompt_id": about, **data}})
        for _ in range(2 if kind == "twice" else 1):
            await fake.send_raw(prompt.client, message)


async def tell_the_truth(fake: FakeComfy, prompt: Prompt, truth: str) -> None:
    prompt.outputs = {"1": {"text": [prompt.id]}}
    kind = "torch.OutOfMemoryError" if truth == "memory" else "ValueError"
    said = {
        "node_id": "1",
        "node_type": "X",
        "exception_message": prompt.id,
        "exception_type": kind,
    }
    if truth == "endless":
        await prompt.interrupted.wait()
    if truth == "vanished":
        fake.running = None
    elif truth == "success":
        fake.finish(prompt)
    elif truth == "silent":
        fake.finish(prompt, "error")
    elif truth in {"interrupted", "endless"}:
        fake.finish(prompt, "error", [["execution_interrupted", said]])
    else:
        fake.finish(prompt, "error", [["execution_error", said]])


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeComfy]:
    with FakeComfy(script) as running:
        yield running


class Job:
    """One job that is followed in a thread of its own."""

    def __init__(self, session: Session, plan: dict[str, Any]) -> None:
        self.truth = str(plan["truth"])
        self.heard: list[Event] = []
        self.fractions: list[float] = []
        self.entry: dict[str, Any] = {}
        self.problem: PennyreelError | None = None
        graph = {n: {"class_type": "KSampler", "inputs": {}} for n in NODES}
        graph["1"]["inputs"] = {"plan": json.dumps(plan)}
        self._tracker = Tracker(graph)
        self.run: Run = session.submit(graph, listener=self._hear)
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def ended(self) -> float:
        """Seconds that it took to be followed to its end."""
        self._thread.join(LIMIT_S + SLACK_S)
        assert not self._thread.is_alive(), "it hangs"
        return time.monotonic() - self._began

    def _hear(self, event: Event) -> None:
        self.heard.append(event)
        if (position := self._tracker.feed(event)) is not None:
            self.fractions.append(position.fraction)

    def _follow(self) -> None:
        # Jobs run one after the other, so one that waits for an endless one has more time.
        limit = ENDLESS_S if self.truth == "endless" else LIMIT_S
        try:
            self.entry = self.run.wait(Deadline(limit))
        except PennyreelError as problem:
            self.problem = problem


@pytest.mark.timeout(300)
@settings(STEADY, max_examples=100)
@given(plans=st.lists(_plan, min_size=1, max_size=3))
def test_a_job_ends_with_the_truth_of_history_whatever_is_told(
    fake: FakeComfy, plans: list[dict[str, Any]]
) -> None:
    with Session(ComfyHttp(fake.url), poll_s=0.05) as session:
        jobs = [Job(session, plan) for plan in plans]
        for job in jobs:
            assert job.ended() < LIMIT_S
        for job in jobs:
            _judge(job)
        assert session._runs == {}, "nobody is followed any more"
    assert fake.running is None or fake.running.id not in {job.run.prompt_id for job in jobs}
    fake.history.clear()


@pytest.mark.parametrize("deaf", [False, True])
def test_silence_is_a_stall_only_where_somebody_listens(deaf: bool) -> None:
    go_on = threading.Event()

    async def script(fake: FakeComfy, prompt: Prompt) -> None:
        while not go_on.is_set():
            await asyncio.sleep(0.01)
        fake.finish(prompt)

    def polls(fake: FakeComfy) -> int:
        return sum(path.startswith("/history/") for _, path in fake.requests)

    graph = {"1": {"class_type": "KSampler", "inputs": {}}}
    with FakeComfy(script) as fake, Session(ComfyHttp(fake.url), poll_s=0.05) as session:
        fake.refuse_sockets = deaf
        assert session.connect() is not deaf
        run = session.submit(graph)
        if deaf:
            ends = threading.Thread(
                target=lambda: (eventually(lambda: polls(fake) > 20), go_on.set())
            )
            ends.start()
            assert run.wait(Deadline(LIMIT_S), stall_s=0.2)["status"]["completed"]
            ends.join()
        else:
            with pytest.raises(JobFailed, match="no progress") as caught:
                run.wait(Deadline(LIMIT_S), stall_s=0.2)
            assert caught.value.code == "stalled"
        go_on.set()


@settings(STEADY, max_examples=500)
@given(news=st.lists(_news, max_size=20))
def test_a_percentage_never_falls_and_is_one(news: list[Any]) -> None:
    tracker = Tracker({n: {"class_type": "KSampler", "inputs": {}} for n in NODES})
    fractions = [0.0]
    for kind, data in news:
        event = parse(json.dumps({"type": kind, "data": {"prompt_id": "p", **data}}))
        if (position := tracker.feed(event)) is not None:
            fractions.append(position.fraction)
    assert fractions == sorted(fractions)
    assert fractions[-1] <= 1.0


def _judge(job: Job) -> None:
    mine = job.run.prompt_id
    code = "" if job.problem is None else job.problem.code
    if job.truth == "endless":  # it may have been ended while it was still in the queue
        assert code == "timeout"
    else:
        assert code in CODES[job.truth], (job.truth, job.problem)
    if job.truth == "success":
        assert job.entry["outputs"] == {"1": {"text": [mine]}}
    if job.truth in {"failed", "memory"}:
        assert mine in str(job.problem), "another job's failure"
    owners = {
        e.prompt_id for e in job.heard if hasattr(e, "prompt_id") and not isinstance(e, Image)
    }
    assert owners <= {mine}
    pictures = [e for e in job.heard if isinstance(e, Image)]
    assert {e.prompt_id for e in pictures} <= {None, mine}
    assert job.fractions == sorted(job.fractions)
    assert all(0.0 <= fraction <= 1.0 for fraction in job.fractions)
