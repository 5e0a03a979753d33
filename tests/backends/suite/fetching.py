"""Fetching what a job made."""

from __future__ import annotations

from collections.abc import Callable

from backends.rig import Rig, Scene, Store, plays
from backends.suite.base import LONG_S, Suite, Told
from pennyreel.backends.base import Backend
from pennyreel.errors import (
    JobCancelled,
    JobFailed,
    JobTimeout,
    PennyreelError,
)
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Artifact


class Fetching(Suite):
    """A file arrives whole, from where it may come, or not at all."""

    @plays(Scene.CUT)
    def test_a_transfer_that_breaks_begins_anew(self, rig: Rig, one: Backend, told: Told) -> None:
        rig.play(Scene.CUT)
        handle, result = self.run(one, told)
        sink = self.fetch(one, handle, result)
        assert bytes(sink.data) == rig.content
        assert sink.restarts >= 2
        assert rig.submits == 1

    @plays(Scene.DAMAGED)
    def test_a_file_that_arrives_damaged_is_told(self, rig: Rig, one: Backend, told: Told) -> None:
        rig.play(Scene.DAMAGED)
        handle, result = self.run(one, told)
        with self.raises(told, JobFailed) as caught:
            self.fetch(one, handle, result)
        assert caught.value.code == "storage_failed"
        assert rig.submits == 1

    @plays(Scene.EXPIRED)
    def test_a_result_that_is_gone_says_so(
        self, rig: Rig, one: Backend, opened: Callable[..., Backend], told: Told
    ) -> None:
        rig.play(Scene.EXPIRED)
        handle = one.submit(self.work(), Deadline(LONG_S))
        later = opened(None, handle.target)
        with self.raises(told, self.gone) as caught:
            result = self.follow(later, handle, told)
            self.fetch(later, handle, result)
        code = "result_expired" if self.gone is JobFailed else "job_gone"
        assert caught.value.code == code
        assert not caught.value.retryable

    @plays(Scene.ELSEWHERE)
    def test_no_key_goes_to_another_host_with_the_file(
        self, rig: Rig, one: Backend, told: Told
    ) -> None:
        rig.play(Scene.ELSEWHERE)
        handle, result = self.run(one, told)
        refusal = ""
        try:
            assert bytes(self.fetch(one, handle, result).data) == rig.content
        except PennyreelError as problem:  # to refuse the host is as good
            refusal = problem.code
        assert refusal == "address_refused" or rig.elsewhere()

    @plays(Scene.PRIVATE)
    def test_a_file_at_a_private_address_is_not_asked_for(
        self, rig: Rig, one: Backend, told: Told
    ) -> None:
        rig.play(Scene.PRIVATE)
        handle, result = self.run(one, told)
        with self.raises(told, PennyreelError) as caught:
            self.fetch(one, handle, result)
        assert caught.value.code == "address_refused"

    @plays(Scene.SUCCEED)
    def test_a_fetch_ends_with_its_job(self, rig: Rig, one: Backend, told: Told) -> None:
        rig.play(Scene.SUCCEED)
        handle, result = self.run(one, told)
        made: Artifact = result.artifacts[0]
        if made.data is not None:
            return  # it is here already
        token = CancelToken()
        token.cancel()
        with self.raises(told, JobCancelled):
            one.fetch(handle, made, Store(), token, Deadline(LONG_S))
        with self.raises(told, JobTimeout):
            one.fetch(handle, made, Store(), CancelToken(), Deadline(0))
