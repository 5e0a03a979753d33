"""The supervisor as a state machine: any order of calls, deaths and stalls of real children."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fakes.waits import eventually
from pennyreel_comfy import process
from pennyreel_comfy.process import State
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import JobCancelled, JobFailed, JobTimeout, PennyreelError, SetupNeeded
from properties.steady import STEADY
from properties.watched import DRAWN, RUNNING, Watched

ABLE = ("good", "stubborn", "litter", "flood")
UNABLE = ("dies", "brittle", "silent", "sulky", "missing")
SLACK_S = 3.0
"""What a busy machine may add to a limit."""


class Oops(Exception):
    """What a job raises."""


class Supervisor(RuleBasedStateMachine):
    """Only this thread calls; the children and the supervisor's threads do what they do."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.comfy = Watched(self.folder / "gate")
        self.jobs: list[tuple[contextlib.AbstractContextManager[None], int]] = []
        self.told: list[tuple[int, list[PennyreelError]]] = []
        self.frozen = False
        self.patched = patch.object(process, "STOP_S", 0.5)
        self.patched.start()

    # What the model says.

    @property
    def child(self) -> int:
        return len(self.comfy.children)

    def open_jobs(self) -> int:
        """Jobs under way on the present child."""
        return sum(child == self.child for _, child in self.jobs)

    # No preconditions: they would depend on how fast a child is, and an example must not.
    def runs(self, *hows: str) -> bool:
        """Whether the present child is of these, and runs, as far as is known."""
        return self.comfy.how in hows and self.comfy.state in RUNNING and not self.frozen

    # Starting and ending.

    @rule(how=st.sampled_from(ABLE + UNABLE + ("late",)))
    def start(self, how: str) -> None:
        before, former, children = self.comfy.state, self.comfy.how, self.child
        self.prepare(how)
        try:
            self.comfy.start()
        except RuntimeError:
            assert before in RUNNING
            self.comfy.prepare(former)
            assert self.child == children
        except SetupNeeded:
            assert how == "missing"
            assert self.comfy.state is State.FAILED
        else:
            self.frozen = False

    @rule(how=st.sampled_from(ABLE + UNABLE + ("late",)), kill=st.booleans())
    def restart(self, how: str, kill: bool) -> None:
        children = self.child
        self.prepare(how)
        with contextlib.suppress(SetupNeeded):
            self.comfy.restart(kill=kill)
        self.frozen = False
        assert self.child == children + (how != "missing")
        assert all(child.poll() is not None for child in self.comfy.children[:children])

    def prepare(self, how: str) -> None:
        (self.folder / "gate").unlink(missing_ok=True)
        self.comfy.prepare(how)

    @rule()
    def stop(self) -> None:
        began = time.monotonic()
        self.comfy.stop()
        assert time.monotonic() - began < 4 * process.STOP_S + SLACK_S
        self.frozen = False
        assert self.comfy.state in {State.STOPPED, State.NEW}
        assert self.comfy.pid is None
        assert all(child.poll() is not None for child in self.comfy.children)
        eventually(lambda: not self.comfy.left())

    # Waiting.

    @rule(limit=st.sampled_from([0.0, 0.05, 0.4]))
    def wait_for_a_moment(self, limit: float) -> None:
        self.waited(limit)

    @rule()
    def an_able_child_becomes_ready(self) -> None:
        if self.runs(*ABLE):
            self.waited(60)
            assert self.comfy.state in {State.READY, State.BUSY}
            assert self.comfy.url == f"http://127.0.0.1:{self.comfy.port}"
            assert self.comfy.pid == self.comfy.children[-1].pid

    @rule()
    def an_unable_child_fails(self) -> None:
        if self.runs(*UNABLE):
            with contextlib.suppress(PennyreelError):
                self.waited(30)
            eventually(lambda: self.comfy.state is State.FAILED)

    @rule()
    def a_late_child_answers_at_last(self) -> None:
        if self.runs("late"):
            (self.folder / "gate").touch()
            self.waited(60)
            assert self.comfy.state in {State.READY, State.BUSY}

    @rule()
    def nobody_waits_who_has_cancelled(self) -> None:
        cancel = CancelToken()
        cancel.cancel()
        with contextlib.suppress(JobCancelled, SetupNeeded, PennyreelError, RuntimeError):
            self.comfy.wait_ready(Deadline(60), cancel)

    def waited(self, limit: float) -> None:
        """Whatever the child does, waiting ends in time, and truly."""
        before, began = self.comfy.state, time.monotonic()
        try:
            self.comfy.wait_ready(Deadline(limit))
        except JobTimeout:
            assert time.monotonic() - began >= limit
            assert limit < 60
        except RuntimeError:
            assert before in {State.NEW, State.STOPPED}
        except (SetupNeeded, JobFailed):
            assert self.comfy.state is State.FAILED
        else:
            assert before in RUNNING
        assert time.monotonic() - began < limit + SLACK_S

    # Jobs.

    @rule()
    def a_job_begins(self) -> None:
        before, job = self.comfy.state, self.comfy.busy()
        try:
            job.__enter__()
        except RuntimeError:
            assert before in {State.NEW, State.STARTING, State.STOPPED}
        except PennyreelError:
            assert self.comfy.state is State.FAILED
        else:
            assert State.BUSY in {move[1] for move in self.comfy.moves}
            self.jobs.append((job, self.child))

    @rule(which=st.integers(0, 99), raises=st.booleans())
    def a_job_ends(self, which: int, raises: bool) -> None:
        if not self.jobs:
            return
        job, _ = self.jobs.pop(which % len(self.jobs))
        if not raises:
            job.__exit__(None, None, None)
        else:
            problem = Oops()
            assert not job.__exit__(Oops, problem, None), "its exception goes on"

    # What befalls the child.

    @rule(number=st.sampled_from([signal.SIGKILL, signal.SIGSEGV]))
    def it_is_killed(self, number: signal.Signals) -> None:
        if not self.comfy.children or self.comfy.state not in RUNNING:
            return
        self.comfy.children[-1].send_signal(signal.SIGKILL if self.frozen else number)
        eventually(lambda: self.comfy.state is State.FAILED)
        eventually(lambda: not self.comfy.left())
        assert self.comfy.pid is None
        self.frozen = False

    @rule()
    def it_hangs(self) -> None:
        if self.runs(*ABLE):
            self.comfy.children[-1].send_signal(signal.SIGSTOP)
            self.frozen = True

    @rule()
    def it_goes_on(self) -> None:
        if self.frozen:
            self.comfy.children[-1].send_signal(signal.SIGCONT)
            self.frozen = False

    # Who is told.

    @rule()
    def somebody_asks_to_be_told(self) -> None:
        self.settled()
        told: list[PennyreelError] = []
        self.comfy.on_death(told.append)
        self.told.append((self.comfy.deaths, told))

    def settled(self) -> None:
        """Of each death unasked, everybody is told once."""
        for since, told in self.told:
            eventually(lambda s=since, t=told: len(t) >= self.comfy.deaths - s)  # type: ignore[misc]
            assert len(told) == self.comfy.deaths - since
            assert {p.code for p in told} <= {"comfy_start_failed", "comfy_crashed"}
            assert all(p.hint for p in told)

    @invariant()
    def the_state_moves_as_drawn(self) -> None:
        for before, after in self.comfy.moves:
            assert after in DRAWN[before], f"{before.value} -> {after.value}"

    @invariant()
    def it_is_busy_while_a_job_of_this_child_runs(self) -> None:
        state = self.comfy.state
        assert state is not State.BUSY or self.open_jobs() > 0
        assert state is not State.READY or self.open_jobs() == 0

    @invariant()
    def whoever_asked_is_told_once_a_death(self) -> None:
        self.settled()

    def teardown(self) -> None:
        try:
            self.stop()
            for job, _ in self.jobs:
                job.__exit__(None, None, None)
            assert self.comfy.state in {State.STOPPED, State.NEW}
            self.settled()
        finally:
            self.patched.stop()
            shutil.rmtree(self.folder)


TestSupervisor = Supervisor.TestCase
TestSupervisor.settings = settings(STEADY, max_examples=60, stateful_step_count=50)
TestSupervisor.pytestmark = [pytest.mark.timeout(300)]


@pytest.fixture
def comfy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    monkeypatch.setattr(process, "STOP_S", 0.5)
    supervised = Watched(tmp_path / "gate")
    yield supervised
    supervised.stop()
    eventually(lambda: not supervised.left())


def test_a_child_that_took_too_long_is_gone_before_the_next_one_begins(comfy: Watched) -> None:
    comfy.prepare("sulky")
    comfy.start()
    eventually(lambda: comfy.state is State.FAILED)
    comfy.prepare("good")
    comfy.start()
    assert comfy.children[0].poll() is not None


def test_of_many_who_restart_it_at_once_no_child_is_lost(comfy: Watched) -> None:
    comfy.prepare("good")
    comfy.start()

    def restart() -> None:
        for _ in range(5):
            with contextlib.suppress(RuntimeError):  # another was faster: it starts already
                comfy.restart()

    threads = [threading.Thread(target=restart) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    comfy.wait_ready(Deadline(60))
    assert [child.pid for child in comfy.children if child.poll() is None] == [comfy.pid]
    comfy.stop()
    assert all(child.poll() is not None for child in comfy.children)


def test_who_waits_while_it_is_restarted_waits_for_the_new_one(
    comfy: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    comfy.prepare("late")
    comfy.start()
    ended: list[BaseException | None] = []

    def wait() -> None:
        try:
            comfy.wait_ready(Deadline(60))
            ended.append(None)
        except BaseException as problem:  # noqa: BLE001 - this test's thread reports all
            ended.append(problem)

    waiting = [threading.Thread(target=wait) for _ in range(4)]
    for thread in waiting:
        thread.start()
    start = comfy.start

    def start_late() -> None:
        with contextlib.suppress(AssertionError):
            eventually(lambda: bool(ended), 0.5)  # who gives up does so now
        start()

    monkeypatch.setattr(comfy, "start", start_late)
    comfy.prepare("good")
    comfy.restart()
    for thread in waiting:
        thread.join()
    assert ended == [None] * 4


def test_a_callback_that_raises_keeps_no_other_from_being_told(comfy: Watched) -> None:
    told: list[PennyreelError] = []

    def raises(_: PennyreelError) -> None:
        raise Oops

    comfy.on_death(raises)
    comfy.on_death(told.append)
    comfy.prepare("good")
    comfy.start()
    comfy.wait_ready(Deadline(60))
    os.kill(comfy.children[-1].pid, signal.SIGKILL)
    eventually(lambda: len(told) == 1)


def test_a_log_that_cannot_be_written_does_not_stop_the_child(
    comfy: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: str) -> None:
        raise OSError

    monkeypatch.setattr(comfy, "_on_line", full)
    comfy.prepare("flood")
    comfy.start()
    comfy.wait_ready(Deadline(60))
    assert comfy.state is State.READY


@pytest.mark.parametrize("how", ["stop", "restart"])
def test_a_callback_may_stop_or_restart_it(comfy: Watched, how: str) -> None:
    done = threading.Event()

    def act(_: PennyreelError) -> None:
        comfy.prepare("good")
        getattr(comfy, how)()
        done.set()

    comfy.on_death(act)
    comfy.prepare("dies")
    comfy.start()
    assert done.wait(30)
    if how == "restart":
        comfy.wait_ready(Deadline(60))
    else:
        assert comfy.state is State.STOPPED
