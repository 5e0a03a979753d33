"""Following a job to its end, or stopping it."""

from __future__ import annotations

from backends.rig import Rig, Scene, plays
from backends.suite.base import LONG_S, Suite, Told
from pennyreel.backends.base import Backend
from pennyreel.errors import (
    BadRequest,
    JobCancelled,
    JobFailed,
    JobTimeout,
    PennyreelError,
)
from pennyreel.types import Handle, Progressed, Queued, Started, Warned
from pennyreel_comfy.waiting import CancelToken, Deadline


class Following(Suite):
    """What is told on the way, and how it ends."""

    @plays(Scene.SLOW)
    def test_waiting_is_told_in_events(self, rig: Rig, one: Backend, told: Told) -> None:
        rig.play(Scene.SLOW)
        _, result = self.run(one, told)
        assert result.artifacts
        assert told.events
        assert {type(e) for e in told.events} <= {Queued, Started, Progressed, Warned}
        shown = [e.percent for e in told.events if isinstance(e, Progressed)]
        assert all(0 <= p <= 100 for p in shown)

    @plays(Scene.STRANGE)
    def test_a_status_that_nobody_knows_means_still_running(
        self, rig: Rig, one: Backend, told: Told
    ) -> None:
        rig.play(Scene.STRANGE)
        _, result = self.run(one, told)
        assert result.artifacts

    @plays(Scene.FAIL)
    def test_a_run_that_fails_says_why(self, rig: Rig, one: Backend, told: Told) -> None:
        rig.play(Scene.FAIL)
        with self.raises(told, JobFailed):
            self.run(one, told)
        assert rig.submits == 1

    @plays(Scene.FILTERED)
    def test_content_that_is_refused_is_not_to_be_tried_again(
        self, rig: Rig, one: Backend, told: Told
    ) -> None:
        rig.play(Scene.FILTERED)
        with self.raises(told, JobFailed, BadRequest) as caught:
            self.run(one, told)
        assert not caught.value.retryable
        assert rig.submits == 1

    @plays(Scene.HANG)
    def test_a_deadline_stops_the_job_and_says_if_that_is_certain(
        self, rig: Rig, one: Backend, told: Told
    ) -> None:
        rig.play(Scene.HANG)
        handle = one.submit(self.work(), Deadline(LONG_S))
        with self.raises(told, JobTimeout) as caught:
            self.follow(one, handle, told, 0.3)
        self._honest(rig, one, handle, caught.value)

    @plays(Scene.HANG)
    def test_a_cancel_while_following_says_if_it_is_certain(
        self, rig: Rig, one: Backend, told: Told
    ) -> None:
        rig.play(Scene.HANG)
        handle = one.submit(self.work(), Deadline(LONG_S))
        token = CancelToken()
        token.cancel()
        with self.raises(told, JobCancelled) as caught:
            self.follow(one, handle, told, LONG_S, token)
        self._honest(rig, one, handle, caught.value)

    @plays(Scene.HANG)
    def test_a_cancel_says_if_it_is_certain(self, rig: Rig, one: Backend, told: Told) -> None:
        rig.play(Scene.HANG)
        handle = one.submit(self.work(), Deadline(LONG_S))
        certain = one.cancel(handle)
        assert certain == one.abilities().cancels
        if certain:
            assert rig.stopped(handle)

    @plays(Scene.DEAF)
    def test_a_server_that_does_not_stop_the_job_is_not_believed(
        self, rig: Rig, one: Backend, told: Told
    ) -> None:
        rig.play(Scene.DEAF)
        handle = one.submit(self.work(), Deadline(LONG_S))
        assert one.cancel(handle) is False
        assert not rig.stopped(handle)
        with self.raises(told, JobTimeout) as caught:
            self.follow(one, handle, told, 0.1)
        assert caught.value.info.detail["confirmed_stopped"] is False

    @plays(Scene.SUCCEED)
    def test_a_job_that_has_ended_does_not_run_any_more(
        self, rig: Rig, one: Backend, told: Told
    ) -> None:
        rig.play(Scene.SUCCEED)
        handle, _ = self.run(one, told)
        assert isinstance(one.cancel(handle), bool)
        assert rig.submits == rig.accepted == 1

    def _honest(self, rig: Rig, one: Backend, handle: Handle, problem: PennyreelError) -> None:
        confirmed = problem.info.detail["confirmed_stopped"]
        assert confirmed is one.abilities().cancels
        if confirmed:
            assert rig.stopped(handle)
