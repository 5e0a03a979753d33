"""The session under any order of news: true, false, doubled, lost, late, and of other jobs.

A plan travels in each graph; the scripted server plays it. What /history says in the end is the
truth, and all that a job may ever come to.
"""

from __future__ import annotations

import asyncio
import json
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.comfyui import FakeComfy, Prompt
from fakes.waits import eventually
from pennyreel_comfy import session as session_module
from pennyreel_comfy.events import (
    Errored,
    Event,
    Executing,
    Image,
    Interrupted,
    Succeeded,
    parse,
)
from pennyreel_comfy.http import ComfyHttp
from pennyreel_comfy.session import Run, Session
from pennyreel_comfy.tracker import Tracker
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Code, JobFailed, JobTimeout, PennyreelError, error
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
    st.sampled_from([("absent", None, 0), ("cancel", None, 0), ("fail", None, 0)]),
)
_plan = st.fixed_dictionaries(
    {"truth": st.sampled_from(sorted(CODES)), "steps": st.lists(_step, max_size=10)}
)


_tokens: dict[str, CancelToken] = {}
"""Of the jobs under way, by their ids: a plan may have its job cancelled."""

_failing: dict[str, Callable[[PennyreelError], None]] = {}
"""How the session is told that its server has died."""

_sending = threading.Lock()
"""A server dies between two jobs' sending: this one would take what is sent to a dead one."""


async def script(fake: FakeComfy, prompt: Prompt) -> None:
    """Play the plan; the truth comes where it stands in it, or in the end."""
    plan = json.loads(prompt.graph["1"]["inputs"]["plan"])
    while sum(p.client == prompt.client for p in fake.prompts) < plan["after"]:
        await asyncio.sleep(0.001)
    told = False
    for kind, news, whose in plan["steps"]:
        if kind == "fail":
            await die(fake, prompt)
            return
        if kind == "truth" and not told:
            told = True
            await tell_the_truth(fake, prompt, plan["truth"])
        await act(fake, prompt, kind, news, whose)
    if not told:
        await tell_the_truth(fake, prompt, plan["truth"])


async def die(fake: FakeComfy, prompt: Prompt) -> None:
    """Forget the session's jobs, as a server that dies does; and its supervisor tells of it."""
    while not _sending.acquire(blocking=False):
        await asyncio.sleep(0.001)
    try:
        fake.running, fake.pending = None, [p for p in fake.pending if p.client != prompt.client]
        for words in ("first", "second"):
            _failing[prompt.id](error(Code.COMFY_CRASHED, f"the {words} words"))
    finally:
        _sending.release()


async def act(fake: FakeComfy, prompt: Prompt, kind: str, news: Any, whose: int) -> None:
    if kind == "drop":
        await fake.drop(prompt)
    elif kind == "absent":
        fake.absent = 3
    elif kind == "cancel":
        _tokens[prompt.id].cancel()  # also after its end
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
        self.steps = {kind for kind, _, _ in plan["steps"]}
        self.heard: list[Event] = []
        self.fractions: list[float] = []
        self.entry: dict[str, Any] = {}
        self.problem: PennyreelError | None = None
        graph = {n: {"class_type": "KSampler", "inputs": {}} for n in NODES}
        graph["1"]["inputs"] = {"plan": json.dumps(plan)}
        self._tracker = Tracker(graph)
        self._cancel, prompt_id = CancelToken(), str(uuid.uuid4())
        _tokens[prompt_id], _failing[prompt_id] = self._cancel, session.fail_all
        with _sending:
            self.run: Run = session.submit(graph, prompt_id=prompt_id, listener=self._hear)
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
            self.entry = self.run.wait(Deadline(limit), self._cancel)
        except PennyreelError as problem:
            self.problem = problem


@pytest.mark.timeout(300)
@settings(STEADY, max_examples=100)
@given(plans=st.lists(_plan, min_size=1, max_size=3), together=st.booleans())
def test_a_job_ends_with_the_truth_of_history_whatever_is_told(
    fake: FakeComfy, plans: list[dict[str, Any]], together: bool
) -> None:
    for plan in plans:  # a first job is over before the next is sent, or all are in the queue
        plan["after"] = len(plans) if together else 0
    with Session(ComfyHttp(fake.url), poll_s=0.05) as session:
        jobs = [Job(session, plan) for plan in plans]
        for job in jobs:
            assert job.ended() < LIMIT_S
        befell = set().union(*(job.steps for job in jobs))
        for job in jobs:
            _judge(job, befell)
        assert session._runs == {}, "nobody is followed any more"
    assert fake.running is None or fake.running.id not in {job.run.prompt_id for job in jobs}
    fake.history.clear()
    fake.absent = 0


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


def test_a_job_that_is_heard_of_makes_progress() -> None:
    go_on = threading.Event()

    async def script(fake: FakeComfy, prompt: Prompt) -> None:
        while not go_on.is_set():
            await asyncio.sleep(0.01)
        await fake.send(prompt, "progress", node="1", value=1, max=2)
        await prompt.interrupted.wait()

    heard: list[Event] = []
    with FakeComfy(script) as fake, Session(ComfyHttp(fake.url), poll_s=0.05) as session:
        run = session.submit({"1": {"class_type": "KSampler", "inputs": {}}}, listener=heard.append)
        run.heard_at -= 1000  # so long ago
        go_on.set()
        eventually(lambda: bool(heard))
        with pytest.raises(JobTimeout):
            run.wait(Deadline(0.2), stall_s=500)


def test_absences_of_the_server_do_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    late = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + late[0])
    monkeypatch.setattr(session_module, "time", clock)

    async def script(fake: FakeComfy, prompt: Prompt) -> None:
        for _ in range(3):
            fake.absent = 1
            while fake.absent:
                await asyncio.sleep(0.005)
            asked = len(fake.requests)
            while ("GET", f"/history/{prompt.id}") not in fake.requests[asked:]:
                await asyncio.sleep(0.005)
            late[0] += 0.6 * session_module.DOWN_GRACE_S
        fake.finish(prompt)

    with FakeComfy(script) as fake, Session(ComfyHttp(fake.url), poll_s=0.05) as session:
        run = session.submit({"1": {"class_type": "KSampler", "inputs": {}}})
        assert run.wait(Deadline(LIMIT_S))["status"]["completed"]


@pytest.mark.parametrize("kind", ["execution_start", "execution_cached"])
def test_a_picture_without_a_name_is_nobody_s_where_two_may_have_made_it(kind: str) -> None:
    async def script(fake: FakeComfy, prompt: Prompt) -> None:
        while len(fake.prompts) < 2:
            await asyncio.sleep(0.001)
        if prompt is fake.prompts[0]:
            for one in fake.prompts:
                await fake.send(one, kind, nodes=["1"])
                await fake.send_raw(one.client, struct.pack(">II", 1, 2) + one.id.encode())
        fake.finish(prompt)
        await fake.send(prompt, "execution_success")

    def pictures(heard: list[Event]) -> list[bytes]:
        return [event.data for event in heard if isinstance(event, Image)]

    graph = {"1": {"class_type": "KSampler", "inputs": {}}}
    heard: tuple[list[Event], list[Event]] = ([], [])
    with FakeComfy(script) as fake, Session(ComfyHttp(fake.url), poll_s=0.05) as session:
        runs = [session.submit(graph, listener=one.append) for one in heard]
        for run in runs:
            eventually(lambda run=run: run.ended)
            run.wait(Deadline(LIMIT_S))
    assert pictures(heard[0]) == [runs[0].prompt_id.encode()], "only one had begun"
    assert pictures(heard[1]) == []


def test_a_websocket_that_is_open_again_is_a_reason_to_look() -> None:
    async def script(fake: FakeComfy, prompt: Prompt) -> None:
        await fake.send(prompt, "execution_start")
        fake.finish(prompt)
        await fake.drop(prompt)  # and nobody tells of the end

    with FakeComfy(script) as fake, Session(ComfyHttp(fake.url), poll_s=600.0) as session:
        run = session.submit({"1": {"class_type": "KSampler", "inputs": {}}})
        assert run.wait(Deadline(LIMIT_S))["status"]["completed"]


def test_a_job_that_was_woken_goes_to_sleep_again() -> None:
    async def script(fake: FakeComfy, prompt: Prompt) -> None:
        await fake.send(prompt, "executing", node=None)  # an end too early
        await prompt.interrupted.wait()

    with FakeComfy(script) as fake, Session(ComfyHttp(fake.url), poll_s=10.0) as session:
        run = session.submit({"1": {"class_type": "KSampler", "inputs": {}}})
        with pytest.raises(JobTimeout):
            run.wait(Deadline(1.5))
        asked = sum(path.startswith("/history/") for _, path in fake.requests)
    # Once where it is told, once after each pause, and once by the next poll or its deadline.
    assert 2 < asked <= len(session_module.SETTLE_S) + 3


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


def _ends(event: Event) -> bool:
    finished = isinstance(event, Executing) and event.node is None
    return finished or isinstance(event, (Succeeded, Errored, Interrupted))


def _judge(job: Job, befell: set[str]) -> None:
    """See whether a job's end is true; `befell` is what befell any job of its session."""
    mine = job.run.prompt_id
    code = "" if job.problem is None else job.problem.code
    told = str(job.problem)
    if code == "cancelled" and "cancel" in job.steps and job.problem is not None:
        assert job.truth in {"interrupted", "vanished"} or told == "the job was cancelled"
        assert job.problem.info.detail.get("confirmed_stopped", True), "nothing keeps it going"
    elif code == "comfy_crashed" and "fail" in befell and "words" in told:
        assert told.startswith("the first words"), "what came first is the cause"
    elif job.truth == "endless":  # it may have been ended while it was still in the queue
        assert code == "timeout"
    else:
        assert code in CODES[job.truth], (job.truth, job.problem)
        assert code != "comfy_crashed" or "drop" in befell, "its websocket was never broken"
    if job.truth == "success" and not code:
        assert job.entry["outputs"] == {"1": {"text": [mine]}}
    if code in {"execution_failed", "out_of_memory"} and job.truth != "silent":
        assert mine in str(job.problem), "another job's failure"
    owners = {
        e.prompt_id for e in job.heard if hasattr(e, "prompt_id") and not isinstance(e, Image)
    }
    assert owners <= {mine}
    assert not any(map(_ends, job.heard[:-1])), "it hears on after its end"
    pictures = [e for e in job.heard if isinstance(e, Image)]
    assert {e.prompt_id for e in pictures} <= {None, mine}
    assert job.fractions == sorted(job.fractions)
    assert all(0.0 <= fraction <= 1.0 for fraction in job.fractions)
