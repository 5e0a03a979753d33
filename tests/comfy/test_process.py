"""The supervisor, against children that misbehave."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fakes.waits import eventually
from pennyreel_comfy import endings, process
from pennyreel_comfy.process import CHILD, ComfyProcess, State
from pennyreel_comfy.waiting import Deadline
from pennyreel_contract import JobTimeout, PennyreelError, SetupNeeded

MISBEHAVE = Path(__file__).parents[1] / "fakes" / "misbehave.py"


def command(how: str) -> Callable[[int], list[str]]:
    return lambda port: [sys.executable, str(CHILD), str(MISBEHAVE), how, "--port", str(port)]


@contextlib.contextmanager
def child(how: str, **options: float) -> Iterator[ComfyProcess]:
    supervised = ComfyProcess(command(how), **options)  # type: ignore[arg-type]
    try:
        yield supervised
    finally:
        supervised.stop()


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_child_becomes_ready_and_is_gone_after_stop() -> None:
    with child("good") as comfy:
        assert comfy.state is State.NEW
        comfy.start()
        comfy.wait_ready(Deadline(20))
        assert comfy.state is State.READY
        assert comfy.started_s is not None
        pid = comfy.pid
        assert pid is not None
        comfy.stop()
        assert comfy.state is State.STOPPED
        assert comfy.pid is None
        assert not alive(pid)


def test_a_child_that_dies_at_its_start_is_told_with_its_last_lines() -> None:
    with child("dies") as comfy:
        comfy.start()
        with pytest.raises(SetupNeeded) as caught:
            comfy.wait_ready(Deadline(20))
        assert caught.value.code == "comfy_start_failed"
        assert "exit code 3" in str(caught.value)
        assert "no such model" in caught.value.info.detail["log"]
        assert comfy.state is State.FAILED


def test_a_child_that_never_answers_is_ended_after_its_time() -> None:
    with child("silent", start_s=0.5) as comfy:
        comfy.start()
        pid = comfy.pid
        with pytest.raises(SetupNeeded, match=r"did not answer within 0\.5 s"):
            comfy.wait_ready(Deadline(20))
        assert pid is not None
        eventually(lambda: not alive(pid))


def test_a_caller_that_waits_for_less_gets_a_timeout_and_the_child_goes_on() -> None:
    with child("silent") as comfy:
        comfy.start()
        with pytest.raises(JobTimeout):
            comfy.wait_ready(Deadline(0.1))
        assert comfy.state is State.STARTING


def test_a_program_that_is_not_there_is_a_clear_error() -> None:
    comfy = ComfyProcess(lambda _: ["/no/such/python"])
    with pytest.raises(SetupNeeded) as caught:
        comfy.start()
    assert caught.value.hint == "Run: pennyreel comfyui install"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_the_death_of_a_busy_child_completes_every_waiting_call(number: int) -> None:
    with child("good") as comfy:
        told: list[PennyreelError] = []
        both = threading.Barrier(3)
        comfy.on_death(told.append)
        comfy.on_death(lambda _: both.wait(10) and None)
        comfy.on_death(lambda _: None)
        comfy.start()
        comfy.wait_ready(Deadline(20))
        waiting = [threading.Thread(target=lambda: both.wait(10)) for _ in range(2)]
        for thread in waiting:
            thread.start()
        with comfy.busy():
            assert comfy.state is State.BUSY
            assert comfy.pid is not None
            os.kill(comfy.pid, number)
            for thread in waiting:
                thread.join(10)
            eventually(lambda: comfy.state is State.FAILED)
        assert comfy.state is State.FAILED
        assert [e.code for e in told] == ["comfy_crashed"]
        assert signal.Signals(number).name in str(told[0])
        with pytest.raises(PennyreelError), comfy.busy():
            pass


def test_a_child_that_dies_is_restarted_on_a_new_port() -> None:
    with child("slow_death") as comfy:
        comfy.start()
        comfy.wait_ready(Deadline(20))
        with contextlib.suppress(requests.RequestException):
            requests.get(f"{comfy.url}/die", timeout=5)
        eventually(lambda: comfy.state is State.FAILED)
        assert comfy.tail()[-1] == "last words"
        comfy.restart()
        comfy.wait_ready(Deadline(20))
        assert comfy.state is State.READY


def test_a_child_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STOP_S", 0.3)
    with child("stubborn") as comfy:
        comfy.start()
        comfy.wait_ready(Deadline(20))
        pid = comfy.pid
        comfy.stop()
        assert pid is not None
        assert not alive(pid)


@pytest.mark.parametrize("how", ["stop", "crash"])
def test_what_a_child_left_behind_is_ended_too(how: str) -> None:
    with child("litter") as comfy:
        comfy.start()
        comfy.wait_ready(Deadline(20))
        line = next(line for line in comfy.tail() if line.startswith("grandchild"))
        grandchild = int(line.split()[1])
        assert alive(grandchild)
        if how == "stop":
            comfy.stop()
        else:
            assert comfy.pid is not None
            os.kill(comfy.pid, signal.SIGKILL)
        eventually(lambda: not alive(grandchild))


@pytest.mark.parametrize("forks", [False, True])
def test_a_child_ends_with_a_parent_that_is_killed(tmp_path: Path, forks: bool) -> None:
    note = tmp_path / "pid"
    program = f"""
import os, time
from pathlib import Path
from pennyreel_comfy.process import CHILD, ComfyProcess
from pennyreel_comfy.waiting import Deadline
import sys
comfy = ComfyProcess(lambda port: [sys.executable, str(CHILD), {str(MISBEHAVE)!r}, "good",
                                   "--port", str(port)])
comfy.start()
comfy.wait_ready(Deadline(20))
other = 0
if {forks}:
    other = os.fork()  # as RunPod's SDK does for its pings
    if other == 0:
        time.sleep(600)
Path({str(note)!r}).write_text(f"{{comfy.pid}} {{other}}")
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", program])
    other = 0
    try:
        eventually(lambda: note.exists() and len(note.read_text().split()) == 2)
        pid, other = map(int, note.read_text().split())
        assert alive(pid)
        parent.kill()
        eventually(lambda: not alive(pid))
    finally:
        parent.kill()
        parent.wait()
        if other:
            os.kill(other, signal.SIGKILL)


def test_lines_reach_who_asks_for_them() -> None:
    lines: list[str] = []
    comfy = ComfyProcess(command("dies"), on_line=lines.append)
    comfy.start()
    with pytest.raises(SetupNeeded):
        comfy.wait_ready(Deadline(20))
    comfy.stop()
    assert lines == ["hello from dies", "no such model"]


class Supervised(RuleBasedStateMachine):
    """Any order of calls and deaths: the state is true, and illegal calls raise."""

    def __init__(self) -> None:
        super().__init__()
        self.comfy = ComfyProcess(command("good"))
        self.started = False

    @precondition(lambda self: not self.started)
    @rule()
    def start(self) -> None:
        self.comfy.start()
        self.started = True

    @precondition(lambda self: self.started)
    @rule()
    def start_again_is_refused(self) -> None:
        with pytest.raises(RuntimeError):
            self.comfy.start()

    @precondition(lambda self: self.started)
    @rule()
    def becomes_ready(self) -> None:
        self.comfy.wait_ready(Deadline(20))
        assert self.comfy.state is State.READY

    @precondition(lambda self: self.started)
    @rule(jobs=st.integers(1, 3))
    def is_busy_while_any_job_runs(self, jobs: int) -> None:
        self.comfy.wait_ready(Deadline(20))
        with contextlib.ExitStack() as stack:
            for _ in range(jobs):
                stack.enter_context(self.comfy.busy())
            assert self.comfy.state is State.BUSY
        assert self.comfy.state is State.READY

    @precondition(lambda self: self.started)
    @rule()
    def dies(self) -> None:
        pid = self.comfy.pid
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: self.comfy.state is State.FAILED)
        self.started = False

    @precondition(lambda self: not self.started)
    @rule()
    def busy_is_refused_while_it_does_not_run(self) -> None:
        with pytest.raises((RuntimeError, PennyreelError)), self.comfy.busy():
            pass

    @rule()
    def stop(self) -> None:
        self.comfy.stop()
        assert self.comfy.state in {State.STOPPED, State.NEW}
        self.started = False

    @rule()
    def restart(self) -> None:
        self.comfy.restart()
        self.started = True

    @invariant()
    def a_process_runs_only_in_a_running_state(self) -> None:
        if self.comfy.state in {State.NEW, State.STOPPED}:
            assert self.comfy.pid is None

    def teardown(self) -> None:
        self.comfy.stop()


TestSupervised = Supervised.TestCase
TestSupervised.settings = settings(
    max_examples=8,
    stateful_step_count=8,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


class _Endless(io.RawIOBase):
    """Writes so many bytes without a newline, then a last line."""

    def __init__(self, size: int) -> None:
        self.rest = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = b"begin" if self.rest == LONG else b"x" * min(len(buffer), self.rest)
        if not self.rest:
            data, self.rest = b"the end\nnext\n", -1
        elif self.rest < 0:
            return 0
        else:
            self.rest -= len(data)
        buffer[: len(data)] = data
        return len(data)


LONG = 64 << 20


def test_of_a_line_without_an_end_both_its_ends_are_kept_and_no_more() -> None:
    tracemalloc.start()
    try:
        long, following = endings.lines(io.BufferedReader(_Endless(LONG)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (long[:6], long[-8:], following) == ("beginx", "xthe end", "next")
    assert len(long) <= 2 * endings.HALF_LINE
    assert peak < 1 << 20


def test_lines_are_told_as_they_are_with_what_is_no_text_replaced() -> None:
    whole = b"a" * endings.HALF_LINE + b"b" * (endings.HALF_LINE - 1)
    told = list(endings.lines(io.BytesIO(b"one\r\n\n\xff\n" + whole + b"\nlast")))
    assert told == ["one", "", "\ufffd", whole.decode(), "last"]
