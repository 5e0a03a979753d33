"""The supervisor as a state machine: any order of calls, deaths and stalls of real children."""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
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
WHY = {
    "dies": "ended while it started (exit code 3)",
    "brittle": "ended while it started (exit code 7)",
    "silent": "did not answer within 0.15 s",
    "sulky": "did not answer within 0.15 s",
}
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
        ComfyHttp(self.comfy.url).system_stats(timeout=READY_S)
        self.says_its_own(self.comfy.tail(), how)

    @staticmethod
    def says_its_own(lines: list[str], how: str) -> None:
        """No line is of another child than this one."""
        assert {line for line in lines if line.startswith("hello")} <= {f"hello from {how}"}

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

    @rule(
        calls=st.lists(st.sampled_from(("start", "stop", "restart")), min_size=2, max_size=3),
        how=_able,
    )
    def many_call_at_once(self, calls: list[str], how: str) -> None:
        """Whoever comes first: at most one child is left, and the state says whether."""
        former, children = self.comfy.how, self.child
        self.prepare(how)
        at_once = threading.Barrier(len(calls))

        def call(name: str) -> None:
            at_once.wait(READY_S)
            with contextlib.suppress(RuntimeError):  # another was faster: it starts already
                getattr(self.comfy, name)()

        self.in_threads([lambda name=name: call(name) for name in calls])
        if self.child == children:
            self.comfy.prepare(former)
        self.frozen = self.frozen and self.child == children and self.comfy.state in RUNNING
        alive = [child.pid for child in self.comfy.children if child.poll() is None]
        if set(calls) == {"stop"}:
            assert self.comfy.state in {State.STOPPED, State.NEW}
        if self.comfy.state in {State.STOPPED, State.NEW}:
            assert alive == []
        elif self.runs(*ABLE):
            self.answering(self.comfy.how)
            assert alive == [self.comfy.pid]

    def in_threads(self, calls: list[Callable[[], None]]) -> None:
        """Make the calls at once, until all have returned."""
        threads = [threading.Thread(target=call) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * READY_S)
            assert not thread.is_alive(), "it hangs"

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
        assert self.comfy.problem is not None
        assert self.comfy.problem.code == "comfy_start_failed"
        assert WHY[how] in str(self.comfy.problem)
        self.says_its_own(self.comfy.problem.info.detail["log"], how)
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
        self.restart("late", kill=True)
        cancel = CancelToken()
        cancel.cancel()
        with pytest.raises(JobCancelled):
            self.comfy.wait_ready(Deadline(READY_S), cancel)

    @rule(fate=st.sampled_from(("answers", "killed", "stopped", "restarted")))
    def everybody_who_waits_is_told(self, fate: str) -> None:
        self.restart("late", kill=True)
        ends: list[BaseException | None] = []

        def wait() -> None:
            try:
                self.comfy.wait_ready(Deadline(READY_S))
                ends.append(None)
            except (RuntimeError, PennyreelError) as problem:
                ends.append(problem)

        def befall() -> None:
            if fate == "answers":
                (self.folder / "gate").touch()
            elif fate == "killed":
                self.comfy.children[-1].kill()
            elif fate == "stopped":
                self.comfy.stop()
            else:
                self.restart("good", kill=False)

        self.in_threads([wait, wait, befall, wait])
        assert len(ends) == 3
        if fate in {"answers", "restarted"}:
            assert ends == [None] * 3
        elif fate == "stopped":
            assert all("not starting" in str(end) for end in ends)
        else:
            assert ends == [self.comfy.problem] * 3
            assert self.comfy.problem is not None
            assert "ended while it started (signal SIGKILL)" in str(self.comfy.problem)

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
        told, number = len(self.told), signal.SIGKILL if self.frozen else number
        self.comfy.children[-1].send_signal(number)
        problem = self.comfy.death(READY_S)  # who sees its connection break asks so
        assert problem is not None
        assert problem.code == "comfy_crashed"
        assert f"died (signal {number.name})" in str(problem)
        assert problem.info.detail["returncode"] == -number
        self.says_its_own(problem.info.detail["log"], self.comfy.how)
        assert self.comfy.state is State.FAILED
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
        assert self.comfy.death(0) is None

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
    def no_two_children_live(self) -> None:
        alive = [child.pid for child in self.comfy.children if child.poll() is None]
        assert alive in ([], [self.comfy.children[-1].pid] if self.comfy.children else [])
        assert not alive or self.comfy.state not in {State.NEW, State.STOPPED}

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
TestSupervisor.settings = settings(STEADY, max_examples=20, stateful_step_count=20)
TestSupervisor.pytestmark = [pytest.mark.timeout(300)]
