"""Alarms ring once, in order, in one thread, and never after they were taken back."""

from __future__ import annotations

import subprocess
import sys
import threading

from tests.fakes.waits import eventually

from pennyreel_comfy.alarms import Alarms


def test_they_ring_in_the_order_of_their_times_in_one_thread() -> None:
    alarms, rung, begin = Alarms(), [], threading.Event()
    alarms.after(-10.0, begin.wait)  # all of them are set before the first of them rings
    for seconds in (-1.0, -3.0, -2.0):
        alarms.after(seconds, lambda s=seconds: rung.append((s, threading.get_ident())))  # type: ignore[misc]
    begin.set()
    eventually(lambda: len(rung) == 3)
    assert [seconds for seconds, _ in rung] == [-3.0, -2.0, -1.0]
    assert len({thread for _, thread in rung}) == 1


def test_one_that_is_due_sooner_is_not_kept_waiting_by_one_that_is_due_later() -> None:
    alarms, rung = Alarms(), threading.Event()
    alarms.after(3600.0, lambda: None)
    alarms.after(0.0, rung.set)
    assert rung.wait(10.0)


def test_one_that_was_taken_back_does_not_ring() -> None:
    alarms, rung, begin, second = Alarms(), [], threading.Event(), threading.Event()
    alarms.after(-10.0, begin.wait)
    first = alarms.after(-2.0, lambda: rung.append("first"))
    alarms.after(-1.0, second.set)
    alarms.take_back(first)
    alarms.take_back(first)  # the second time it does nothing
    begin.set()
    assert second.wait(10.0)
    assert rung == []


def test_one_that_fails_does_not_keep_the_others_from_ringing() -> None:
    alarms, rung = Alarms(), threading.Event()

    def fail() -> None:
        raise RuntimeError("planned")

    alarms.after(0.0, fail)
    alarms.after(0.0, rung.set)
    assert rung.wait(10.0)


def test_those_that_were_taken_back_do_not_pile_up() -> None:
    alarms = Alarms()
    kept = alarms.after(3600.0, lambda: None)
    for _ in range(10_000):
        alarms.take_back(alarms.after(3600.0, lambda: None))
    assert len(alarms._coming) < 200
    assert kept in alarms._coming


def test_they_ring_in_a_forked_child_too() -> None:
    program = (
        "import os, sys, threading\n"
        "from pennyreel_comfy.alarms import alarms\n"
        "rung = threading.Event()\n"
        "alarms.after(0.0, rung.set)\n"
        "rung.wait(10.0) or sys.exit(3)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    rung.clear()\n"
        "    alarms.after(0.0, rung.set)\n"
        "    os._exit(0 if rung.wait(10.0) else 4)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], check=False, timeout=60.0
    )
    assert done.returncode == 0


def test_many_threads_set_and_take_back_at_once() -> None:
    alarms, rung, lock = Alarms(), [0], threading.Lock()
    wanted = 8 * 50

    def ring() -> None:
        with lock:
            rung[0] += 1

    def play() -> None:
        for _ in range(50):
            alarms.after(0.0, ring)
            alarms.take_back(alarms.after(60.0, ring))

    threads = [threading.Thread(target=play) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: rung[0] == wanted)
    assert rung[0] == wanted
