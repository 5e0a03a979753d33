"""Submitting: once, and every refusal is what it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from backends.rig import Rig, Scene, plays
from backends.suite.base import LONG_S, REFUSED, Suite, Told
from pennyreel.backends.base import Backend
from pennyreel.errors import (
    BadRequest,
    JobTimeout,
    OutcomeUnknown,
    SetupNeeded,
    Unavailable,
)
from pennyreel.types import Handle
from pennyreel_comfy.waiting import Deadline


class Submitting(Suite):
    """A submit that is answered."""

    @plays(Scene.SUCCEED)
    def test_a_job_is_one_billable_call_and_its_files_arrive(
        self, rig: Rig, one: Backend, told: Told
    ) -> None:
        rig.play(Scene.SUCCEED)
        work = self.work()
        handle, result = self.run(one, told, work)
        assert (handle.backend, handle.target) == (one.name, one.target)
        assert handle.attempt_id == work.attempt_id == result.attempt_id
        assert result.artifacts
        assert bytes(self.fetch(one, handle, result).data) == rig.content
        assert rig.submits == rig.accepted == 1

    @plays(Scene.SUCCEED)
    def test_a_handle_on_paper_finds_its_job_from_another_process(
        self, rig: Rig, opened: Callable[..., Backend], told: Told
    ) -> None:
        rig.play(Scene.SUCCEED)
        first = opened()
        handle = first.submit(self.work(), Deadline(LONG_S))
        first.close()
        told.texts.append(str(handle))
        found = Handle.parse(str(handle))
        assert found == handle
        second = opened(None, found.target)
        result = self.follow(second, found, told)
        assert result.attempt_id == handle.attempt_id
        assert bytes(self.fetch(second, found, result).data) == rig.content
        assert rig.submits == rig.accepted == 1

    def test_a_deadline_that_has_passed_sends_nothing(
        self, rig: Rig, one: Backend, told: Told
    ) -> None:
        with self.raises(told, JobTimeout) as caught:
            one.submit(self.work(), Deadline(0))
        assert caught.value.info.detail["confirmed_stopped"] is True
        assert rig.submits == rig.accepted == 0

    def test_a_refused_connection_means_that_nothing_runs(
        self, rig: Rig, opened: Callable[..., Backend], told: Told
    ) -> None:
        error = self.refused(rig, told, opened(rig.dead), Unavailable)
        assert error.retryable

    @plays(Scene.RATE_LIMITED)
    def test_a_rate_limit_says_when_to_come_again(self, rig: Rig, one: Backend, told: Told) -> None:
        rig.play(Scene.RATE_LIMITED)
        error = self.refused(rig, told, one, Unavailable)
        assert error.code == "rate_limited"
        assert error.retryable
        assert error.info.detail["retry_after_s"] == 7

    @plays(Scene.UNAUTHORIZED)
    def test_a_refused_key_is_a_matter_of_setup(self, rig: Rig, one: Backend, told: Told) -> None:
        rig.play(Scene.UNAUTHORIZED)
        error = self.refused(rig, told, one, SetupNeeded)
        assert error.code == "unauthorized"
        for variable in self.keys.values():
            assert variable in error.hint or len(self.keys) > 1
        assert rig.submits <= 1

    @plays(Scene.UNPAID)
    def test_an_empty_account_is_told(self, rig: Rig, one: Backend, told: Told) -> None:
        rig.play(Scene.UNPAID)
        self.refused(rig, told, one, SetupNeeded)
        assert rig.submits == 1

    @plays(Scene.INVALID)
    def test_a_request_that_is_refused_is_not_sent_again(
        self, rig: Rig, one: Backend, told: Told
    ) -> None:
        rig.play(Scene.INVALID)
        error = self.refused(rig, told, one, BadRequest)
        assert not error.retryable
        assert rig.submits <= 1  # 0, where it is seen before

    @plays(Scene.BUSY)
    def test_a_5xx_that_is_a_refusal_means_that_nothing_runs(
        self, rig: Rig, one: Backend, told: Told
    ) -> None:
        rig.play(Scene.BUSY)
        assert self.refused(rig, told, one, Unavailable).retryable

    @plays(Scene.BROKEN)
    def test_any_other_5xx_is_an_unknown_outcome_and_not_sent_again(
        self, rig: Rig, one: Backend, told: Told
    ) -> None:
        rig.play(Scene.BROKEN)
        with self.raises(told, OutcomeUnknown):
            one.submit(self.work(), Deadline(LONG_S))
        assert rig.submits == 1

    @plays(Scene.REDIRECT)
    def test_a_redirect_is_not_followed_with_a_key(
        self, rig: Rig, one: Backend, told: Told
    ) -> None:
        rig.play(Scene.REDIRECT)
        with self.raises(told, *REFUSED, OutcomeUnknown):
            one.submit(self.work(), Deadline(LONG_S))
        assert rig.elsewhere() == []
        assert rig.submits == 1


class Unanswered(Suite):
    """A submit whose answer does not come: nobody knows, and nothing is sent again."""

    @plays(Scene.LOST)
    def test_a_lost_answer_is_an_unknown_outcome_and_not_sent_again(
        self, rig: Rig, one: Backend, told: Told
    ) -> None:
        self._lost(rig, one, told, Scene.LOST)

    @plays(Scene.GARBLED)
    def test_an_unreadable_answer_is_an_unknown_outcome_and_not_sent_again(
        self, rig: Rig, one: Backend, told: Told
    ) -> None:
        self._lost(rig, one, told, Scene.GARBLED)

    @plays(Scene.NEVER_CAME)
    def test_a_broken_connection_is_an_unknown_outcome_though_nothing_was_taken(
        self, rig: Rig, one: Backend, told: Told
    ) -> None:
        rig.play(Scene.NEVER_CAME)
        work = self.work()
        with self.raises(told, OutcomeUnknown):
            one.submit(work, Deadline(LONG_S))
        assert rig.submits <= 1
        assert rig.accepted == 0
        self._not_found(one, told, work.attempt_id)

    def test_an_attempt_that_was_never_sent_is_not_found(
        self, rig: Rig, one: Backend, told: Told
    ) -> None:
        self._not_found(one, told, "b" * 32)
        assert rig.submits == 0

    def test_a_dead_server_cannot_say_that_it_took_nothing(
        self, rig: Rig, opened: Callable[..., Backend], told: Told
    ) -> None:
        with self.raises(told, OutcomeUnknown):
            opened(rig.dead).lookup("b" * 32)

    def _lost(self, rig: Rig, one: Backend, told: Told, scene: Scene) -> None:
        """It is either found at once by what can look, or unknown; and later it can be found."""
        rig.play(scene)
        work, looks_up, handle = self.work(), one.abilities().looks_up, None
        try:
            handle = one.submit(work, Deadline(LONG_S))
            assert looks_up, "a lost answer names no job"
            assert handle.attempt_id == work.attempt_id
        except OutcomeUnknown as problem:
            told.texts += [str(problem), problem.hint, problem.info.model_dump_json()]
        assert rig.submits == rig.accepted == 1
        if looks_up:
            found = self.found(one, work.attempt_id)
            assert self.follow(one, found, told).attempt_id == work.attempt_id
        else:
            with self.raises(told, OutcomeUnknown):
                one.lookup(work.attempt_id)
        assert rig.submits == rig.accepted == 1

    def _not_found(self, one: Backend, told: Told, attempt_id: str) -> None:
        """None is a claim that it was not accepted: only what can look up may make it."""
        if not one.abilities().looks_up:
            with self.raises(told, OutcomeUnknown):
                one.lookup(attempt_id)
            return
        with suppress(OutcomeUnknown):  # it cannot be told (yet)
            assert one.lookup(attempt_id) is None
