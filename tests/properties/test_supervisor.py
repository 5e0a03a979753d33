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
from pennyreel_comfy.http import ComfyHttp
from pennyreel_comfy.process import State
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import JobCancelled, JobFailed, JobTimeout, PennyreelError, SetupNeeded
from properties.steady import STEADY
from properties.watched import DRAWN, RUNNING, Watched

ABLE = ("good", "stubborn", "litter", "flood")
UNABLE = ("dies", "brittle", "silent", "sulky", "missing")
READY_S = 20.0
"""More than any of these children needs to answer, or to fail."""

SLACK_S = 5.0
"""What a busy machine may add to a limit."""

_able = st.sampled_from(ABLE)


class Oops(Exception):
    """What a job raises."""


class Supervisor(RuleBasedStateMachine):
    """Only this thread calls; the children and the supervisor's threads do what they do.

    No preconditions: they would depend on how fast a child is, and an example must not. A rule
    that needs a child that answers makes one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.comfy = Watched(self.folder / "gate")
        self.jobs: list[tuple[contextlib.AbstractContextManager[None], int]] = []
        self.told: list[PennyreelError] = []
        self.comfy.on_death(self.told.append)
        self.frozen = False
        self.patched = patch.multiple(process, STOP_S=0.2, _PROBE_S=0.01)
        self.patched.start()

    # What the model says.

    @property
    def child(self) -> int:
        return len(self.comfy.children)

    def open_jobs(self) -> int:
        """Jobs under way on the present child."""
        return sum(child == self.child for _, child in self.jobs)

    def runs(self, *hows: str) -> bool:
        """Whether the present child is of these, and runs, as far as is known."""
        return self.comfy.how in hows and self.comfy.state in RUNNING and not self.frozen

    def answering(self, how: str) -> None:
        """Have a child of this kind that answers."""
        if not self.runs(how):
            self.restart(how, kill=False)
        self.waited(READY_S)
        assert self.comfy.state in {State.READY, State.BUSY}
        assert self.comfy.url == f"http://127.0.0.1:{self.comfy.port}"
        assert self.comfy.pid == self.comfy.children[-1].pid
        assert self.comfy.problem is None
        assert self.comfy.death(0) is None

    # Starting and ending.

    @rule(how=st.sampled_from((*ABLE, *UNABLE, "late")))
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
        assert all(child.poll() is not None for child in self.comfy.children[:-1])

    @rule(how=st.sampled_from((*ABLE, *UNABLE, "late")), kill=st.booleans())
    def restart(self, how: str, kill: bool) -> None:
        children = self.child
        with self.no_death():
            self.prepare(how)
            with contextlib.suppress(SetupNeeded):
                self.comfy.restart(kill=kill)
        self.frozen = False
        assert self.child == children + (how != "missing")
        assert all(child.poll() is not None for child in self.comfy.children[:children])

    def prepare(self, how: str) -> None:
        (self.folder / "gate").unlink(missing_ok=True)
        self.comfy.prepare(how)

    @rule(kill=st.booleans())
    def stop(self, kill: bool) -> None:
        began = time.monotonic()
        with self.no_death():
            self.comfy.stop(kill=kill)
        assert time.monotonic() - began < 4 * process.STOP_S + SLACK_S
        self.frozen = False
        assert self.comfy.state in {State.STOPPED, State.NEW}
        assert self.comfy.pid is None
        with pytest.raises(RuntimeError, match="not starting"):  # and not of what was before
            self.comfy.wait_ready(Deadline(0))
        with pytest.raises(RuntimeError, match="ComfyUI is"):
            self.comfy.busy().__enter__()
        assert all(child.poll() is not None for child in self.comfy.children)
        eventually(lambda: not self.comfy.left())

    @contextlib.contextmanager
    def no_death(self) -> Iterator[None]:
        """Whoever ends a child that would have lived is not told that it died."""
        steady, moves = self.frozen or self.runs(*ABLE, "late"), len(self.comfy.moves)
        yield
        ways = [after for _, after in self.comfy.moves[moves:]]
        assert not steady or State.FAILED not in ways[: ways.index(State.STOPPED)]

    # Waiting.

    @rule(limit=st.sampled_from([0.0, 0.05]))
    def wait_for_a_moment(self, limit: float) -> None:
        self.waited(limit)

    @rule(how=st.sampled_from([how for how in UNABLE if how != "missing"]))
    def an_unable_child_fails(self, how: str) -> None:
        if not self.runs(how):
            self.restart(how, kill=True)
        told = len(self.told)
        with contextlib.suppress(PennyreelError):
            self.waited(READY_S)
        eventually(lambda: self.comfy.state is State.FAILED)
        assert self.comfy.problem is self.comfy.death(0)
        assert self.comfy.death(0) is not None
        eventually(lambda: self.comfy.pid is None)
        self.comfy.join()
        assert len(self.told) <= told + 1

    @rule()
    def a_late_child_answers_at_last(self) -> None:
        if not self.runs("late"):
            self.restart("late", kill=True)
        (self.folder / "gate").touch()
        self.waited(READY_S)
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
            assert limit < READY_S
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
            self.a_job_begins()
            return
        job, _ = self.jobs.pop(which % len(self.jobs))
        if not raises:
            job.__exit__(None, None, None)
        else:
            problem = Oops()
            assert not job.__exit__(Oops, problem, None), "its exception goes on"

    @rule(former=_able, how=_able, ends_first=st.booleans())
    def a_job_outlives_its_child(self, former: str, how: str, ends_first: bool) -> None:
        """A job of the former child is no job of the next one, whichever of them ends first."""
        self.answering(former)
        self.a_job_begins()
        old = len(self.jobs) - 1
        self.restart(how, kill=False)
        self.answering(how)
        assert self.comfy.state is State.READY
        for _ in range(2):
            self.a_job_begins()
        for job in (old, old, old) if ends_first else (old + 2, old + 1, old):
            self.it_is_busy_while_a_job_of_this_child_runs()
            self.a_job_ends(job, raises=job > old)

    # What befalls the child.

    @rule(how=_able, number=st.sampled_from([signal.SIGKILL, signal.SIGSEGV]))
    def it_is_killed(self, how: str, number: signal.Signals) -> None:
        """Its death is told once, and nothing that it left behind outlives it."""
        if not self.frozen:
            self.answering(how)
        told = len(self.told)
        self.comfy.children[-1].send_signal(signal.SIGKILL if self.frozen else number)
        eventually(lambda: self.comfy.state is State.FAILED)
        eventually(lambda: not self.comfy.left())
        self.comfy.join()
        assert len(self.told) == told + 1
        assert self.told[-1] is self.comfy.problem
        assert self.comfy.pid is None
        self.frozen = False

    @rule(how=_able)
    def it_is_stopped_while_it_dies(self, how: str) -> None:
        """It is told or it is not, but only before the stop has returned."""
        self.answering(how)
        self.comfy.children[-1].send_signal(signal.SIGKILL)
        self.comfy.stop()
        told = len(self.told)
        self.comfy.join()
        assert len(self.told) == told
        assert self.comfy.state is State.STOPPED

    @rule(how=_able)
    def it_hangs(self, how: str) -> None:
        self.answering(how)
        self.comfy.children[-1].send_signal(signal.SIGSTOP)
        self.frozen = True

    @rule()
    def it_goes_on(self) -> None:
        if self.frozen:
            self.comfy.children[-1].send_signal(signal.SIGCONT)
            self.frozen = False

    # What always holds.

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
    def each_death_unasked_is_told_once(self) -> None:
        eventually(lambda: len(self.told) >= self.comfy.deaths)
        assert len(self.told) == self.comfy.deaths
        assert {p.code for p in self.told} <= {"comfy_start_failed", "comfy_crashed"}
        assert all(p.hint for p in self.told)

    def teardown(self) -> None:
        try:
            self.stop(kill=False)
            for job, _ in self.jobs:
                job.__exit__(None, None, None)
            assert self.comfy.state in {State.STOPPED, State.NEW}
            self.each_death_unasked_is_told_once()
        finally:
            self.comfy.stop(kill=True)
            self.patched.stop()
            shutil.rmtree(self.folder)


TestSupervisor = Supervisor.TestCase
TestSupervisor.settings = settings(STEADY, max_examples=30, stateful_step_count=20)
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


def test_of_two_who_start_it_at_once_one_is_refused(comfy: Watched) -> None:
    comfy.prepare("sulky")
    comfy.start()
    eventually(lambda: comfy.state is State.FAILED)
    comfy.prepare("good")
    refused: list[str] = []
    both = threading.Barrier(2)

    def start() -> None:
        both.wait(30)
        try:
            comfy.start()  # which waits for the end of the one that took too long
        except RuntimeError as problem:
            refused.append(str(problem))

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(refused) == 1
    assert len(comfy.children) == 2
    comfy.wait_ready(Deadline(60))


def test_of_a_former_child_whose_log_is_held_open_the_next_one_hears_nothing(
    comfy: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "LOG_S", 1.0)
    comfy.prepare("ghost")
    comfy.start()
    eventually(lambda: comfy.state is State.FAILED and len(comfy.tail()) == 2)
    (ghost,) = (int(line.split()[1]) for line in comfy.tail() if line.startswith("ghost"))
    threads = list(comfy._threads)
    comfy.prepare("good")
    comfy.start()
    comfy.wait_ready(Deadline(60))
    for thread in threads:
        thread.join(30)
    assert comfy.state is State.READY
    assert comfy.problem is None
    assert comfy.deaths == 1
    eventually(lambda: not Path(f"/proc/{ghost}").exists())


def test_an_answer_of_a_former_child_makes_the_next_one_no_readier(
    comfy: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered, go_on, asks = threading.Event(), threading.Event(), process._answers

    def held(http: ComfyHttp) -> bool:
        found = asks(http)
        if found and not answered.is_set():
            answered.set()
            go_on.wait(30)
        return found

    monkeypatch.setattr(process, "_answers", held)
    comfy.prepare("good")
    comfy.start()
    assert answered.wait(30)
    comfy.children[-1].kill()
    eventually(lambda: comfy.state is State.FAILED)
    former = list(comfy._threads)
    comfy.prepare("late")
    comfy.start()
    go_on.set()
    for thread in former:
        thread.join(30)
    assert comfy.state is State.STARTING


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


def test_a_stop_that_a_start_overtakes_leaves_the_new_child_alone(
    comfy: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "STOP_S", 30.0)
    told = threading.Event()
    comfy.on_death(lambda _: told.wait(30) and None)  # a stop waits for who is being told
    comfy.prepare("dies")
    comfy.start()
    eventually(lambda: comfy.state is State.FAILED)
    stopping = threading.Thread(target=comfy.stop)
    stopping.start()
    eventually(lambda: comfy._stopping)
    comfy.prepare("good")
    comfy.start()
    comfy.wait_ready(Deadline(60))
    told.set()
    stopping.join(60)
    assert comfy.state is State.READY
    assert comfy.pid == comfy.children[-1].pid


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
