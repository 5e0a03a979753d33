"""Deadlines count down to zero; a cancellation reaches everybody, once."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import JobCancelled, JobTimeout


def test_no_deadline_never_expires() -> None:
    never = Deadline(None)
    assert not never.expired
    assert never.left(5.0) == 5.0


@given(st.floats(-10, 1e6), st.floats(0, 1e6))
def test_time_left_is_never_negative_nor_above_what_is_asked(seconds: float, most: float) -> None:
    assert 0.0 <= Deadline(seconds).left(most) <= max(0.0, min(most, seconds))


def test_a_deadline_expires_and_says_what_took_too_long() -> None:
    soon = Deadline(0.01)
    assert not soon.expired
    time.sleep(0.02)
    assert soon.expired
    assert soon.left() == 0.0
    problem = soon.error("the upload")
    assert isinstance(problem, JobTimeout)
    assert "the upload took longer than the 0.01 s" in str(problem)


def test_a_cancellation_is_told_once_to_each() -> None:
    token, told = CancelToken(), list[str]()
    token.on_cancel(lambda: told.append("a"))
    token.on_cancel(lambda: told.append("b"))
    token.check()
    assert not token.cancelled
    token.cancel()
    token.cancel()
    assert told == ["a", "b"]
    assert token.cancelled
    with pytest.raises(JobCancelled):
        token.check()


def test_who_comes_late_is_told_at_once() -> None:
    token, told = CancelToken(), list[str]()
    token.cancel()
    token.on_cancel(lambda: told.append("late"))
    assert told == ["late"]


def test_who_has_left_is_not_told() -> None:
    token, event = CancelToken(), threading.Event()
    token.on_cancel(event.set)
    token.forget(event.set)
    token.forget(event.set)
    token.cancel()
    assert not event.is_set()


def test_a_callback_may_use_the_token() -> None:
    token, told = CancelToken(), list[bool]()
    token.on_cancel(lambda: told.append(token.cancelled))
    token.on_cancel(lambda: token.on_cancel(lambda: told.append(True)))
    token.cancel()
    assert told == [True, True]


def test_nobody_is_forgotten_because_another_one_failed() -> None:
    token, told = CancelToken(), list[str]()

    def broken() -> None:
        raise RuntimeError("a listener's own bug")

    token.on_cancel(broken)
    token.on_cancel(lambda: told.append("b"))
    with pytest.raises(RuntimeError, match="own bug"):
        token.cancel()
    assert told == ["b"]


def test_no_thread_misses_a_cancellation_that_races_with_it() -> None:
    for _ in range(50):
        token, woken = CancelToken(), threading.Event()
        other = threading.Thread(target=token.cancel)
        other.start()
        token.on_cancel(woken.set)
        assert woken.wait(5)
        other.join(5)
