"""Orders of events in the supervisor that chance does not bring about often enough."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from socket import create_server

import pytest

from fakes.waits import eventually
from pennyreel_comfy import process
from pennyreel_comfy.http import ComfyHttp
from pennyreel_comfy.process import State
from pennyreel_comfy.waiting import Deadline
from pennyreel_contract import PennyreelError
from properties.watched import Watched


class Oops(Exception):
    """What a callback raises."""


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


@pytest.mark.parametrize("next_one", [False, True])
def test_an_answer_of_a_child_that_is_dead_makes_nobody_ready(
    comfy: Watched, monkeypatch: pytest.MonkeyPatch, next_one: bool
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
    if next_one:
        comfy.prepare("late")
        comfy.start()
    go_on.set()
    for thread in former:
        thread.join(30)
    assert comfy.state is (State.STARTING if next_one else State.FAILED)


@pytest.mark.parametrize(("kill", "how"), [(False, signal.SIGTERM), (True, signal.SIGKILL)])
def test_a_child_is_asked_to_end_unless_that_would_be_vain(
    comfy: Watched, monkeypatch: pytest.MonkeyPatch, kill: bool, how: signal.Signals
) -> None:
    monkeypatch.setattr(process, "STOP_S", 30.0)
    comfy.prepare("good")
    comfy.start()
    comfy.wait_ready(Deadline(60))
    comfy.stop(kill=kill)
    assert comfy.children[-1].returncode == -how


def test_nothing_of_a_child_goes_on_once_it_is_stopped(
    comfy: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "STOP_S", 30.0)
    monkeypatch.setattr(process, "LOG_S", 0.5)
    comfy.prepare("ghost")
    comfy._start_s = 30.0
    comfy.start()
    eventually(lambda: len(comfy.tail()) == 2)
    comfy.stop()
    assert not any(thread.is_alive() for thread in comfy._threads)


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


def test_a_port_that_another_took_meanwhile_is_not_used_again(comfy: Watched) -> None:
    comfy.prepare("good")
    comfy.start()
    comfy.wait_ready(Deadline(60))
    former = comfy.port
    comfy.stop()
    with create_server(("127.0.0.1", former)):
        comfy.start()
        comfy.wait_ready(Deadline(60))
        assert comfy.port != former


def test_who_waits_for_idleness_waits_while_a_job_runs(comfy: Watched) -> None:
    comfy.prepare("good")
    comfy.start()
    comfy.wait_ready(Deadline(60))
    with comfy.busy():
        began = time.monotonic()
        comfy.wait_idle(0.1)
        assert time.monotonic() - began >= 0.1
    comfy.wait_idle(60)
    assert comfy.state is State.READY


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
