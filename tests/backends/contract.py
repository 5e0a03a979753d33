"""What is true of every backend: subclass `BackendContract` in your backend's test.

    class TestMine(BackendContract):
        backend = MyBackend
        keys: ClassVar = {"my_api_key": "MY_API_KEY"}
        lacks: ClassVar = {Scene.UNPAID: "its documentation has no 402"}

        @pytest.fixture
        def rig(self) -> Iterator[Rig]: …        # your emulation, see rig.py

        def work(self, **changes: Any) -> Work: …

A scene that your API cannot play stands in `lacks` with its reason, and the tests that need it
are not collected; there is no other way to leave one out.
"""

from __future__ import annotations

import json
import logging
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import pytest

from backends.rig import Rig, Scene, Store, plays
from client.support import GRAPH
from pennyreel import _http
from pennyreel.backends.base import Backend, Work
from pennyreel.config import Settings
from pennyreel.errors import (
    BadRequest,
    JobCancelled,
    JobFailed,
    JobTimeout,
    OutcomeUnknown,
    PennyreelError,
    SetupNeeded,
    Unavailable,
)
from pennyreel.need import Need, Unit, misfits
from pennyreel.types import Handle, Progressed, Queued, Started, Warned
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Artifact, Result

REFUSED = (BadRequest, SetupNeeded, Unavailable)
LONG_S = 60.0
"""No test waits for it; it only ends a test that would hang."""


@dataclass
class Told:
    """What a test saw and raised, all of which is searched for keys."""

    events: list[Any] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


class BackendContract:
    """The suite. Names without `test_` are for subclasses."""

    backend: ClassVar[type[Backend]]
    keys: ClassVar[Mapping[str, str]] = {}
    """Field of Settings -> the variable that sets it; opening without it has to name that. Another
    package's backend, which has no field there, writes the variable twice."""
    lacks: ClassVar[Mapping[Scene, str]] = {}
    """Scenes that this API cannot play, and why."""

    def __init_subclass__(cls) -> None:
        for name in dir(BackendContract):
            scenes = getattr(getattr(BackendContract, name), "scenes", ())
            if any(scene in cls.lacks for scene in scenes):
                setattr(cls, name, None)  # pytest collects functions only

    def open(self, settings: Settings, target: str | None = None) -> Backend:
        """Open the backend; override it to make its pauses short."""
        return self.backend.open(settings, target)

    def work(self, **changes: Any) -> Work:
        """Return a job that this backend can run, each time under a new attempt id."""
        need = Need(kind="image", workflow=True)
        return Work(uuid.uuid4().hex, GRAPH, **{"need": need, **changes})

    # Fixtures.

    @pytest.fixture
    def rig(self) -> Iterator[Rig]:
        """Start the server. Override it."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _no_pauses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Between the tries of what may be tried again."""
        monkeypatch.setattr(_http, "backoff", lambda *_, **__: 0.0)

    @pytest.fixture
    def told(self) -> Told:
        return Told()

    @pytest.fixture
    def opened(self, rig: Rig, told: Told) -> Iterator[Callable[..., Backend]]:
        """`opened()`: the backend against the rig's server, or `opened(settings, target)`."""
        with ExitStack() as stack:

            def make(settings: Settings | None = None, target: str | None = None) -> Backend:
                one = self.open(settings or rig.settings, target)
                stack.callback(one.close)
                told.texts += [repr(one), str(one), repr(getattr(one, "__dict__", "")), one.target]
                return one

            yield make

    @pytest.fixture
    def one(self, opened: Callable[..., Backend]) -> Backend:
        """The backend against the rig's server."""
        return opened()

    @pytest.fixture(autouse=True)
    def _keys_stay_secret(
        self, rig: Rig, told: Told, caplog: pytest.LogCaptureFixture
    ) -> Iterator[None]:
        """After each test: no key in logs, errors, reprs, events or URLs."""
        caplog.set_level(logging.DEBUG)
        yield
        told.texts += [r.getMessage() + (r.exc_text or "") for r in caplog.get_records("call")]
        self.search(rig, told)

    # What tests are made of.

    @contextmanager
    def raises(self, told: Told, *kinds: type[PennyreelError]) -> Iterator[Any]:
        """Expect one of these, with a hint; keep all that it says."""
        with pytest.raises(kinds) as caught:
            yield caught
        told.texts += [str(caught.value), repr(caught.value), caught.value.info.model_dump_json()]
        told.texts.append("".join(traceback.format_exception(caught.value)))
        assert str(caught.value).strip()
        assert caught.value.hint.strip()

    def follow(
        self,
        one: Backend,
        handle: Handle,
        told: Told,
        deadline: float | None = LONG_S,
        cancel: CancelToken | None = None,
    ) -> Result:
        """Wait for the job's end."""
        return one.follow(
            handle,
            on_event=told.events.append,
            deadline=Deadline(deadline),
            cancel=cancel or CancelToken(),
        )

    def run(self, one: Backend, told: Told, work: Work | None = None) -> tuple[Handle, Result]:
        handle = one.submit(work or self.work(), Deadline(LONG_S))
        return handle, self.follow(one, handle, told)

    def fetch(self, one: Backend, handle: Handle, result: Result) -> Store:
        sink = Store()
        one.fetch(handle, result.artifacts[0], sink, CancelToken(), Deadline(LONG_S))
        return sink

    def found(self, one: Backend, attempt_id: str) -> Handle:
        """Look an attempt up until it can be told; None would be wrong."""
        limit = Deadline(LONG_S)
        while True:
            try:
                handle = one.lookup(attempt_id)
            except OutcomeUnknown:
                assert not limit.expired, "never found"
                continue
            assert handle is not None
            return handle

    def search(self, rig: Rig, told: Told) -> None:
        """Look for keys where none may be."""
        texts = [*told.texts, *map(repr, told.events), *rig.urls()]
        for secret in rig.secrets:
            assert len(secret) > 8, "too short to be looked for"
            assert not [t for t in texts if secret in t]
            for got in rig.elsewhere():
                assert secret not in f"{got.path} {got.headers} {got.body!r}"

    def refused(self, rig: Rig, told: Told, one: Backend, *kinds: type[PennyreelError]) -> Any:
        """A submit that is refused: the right error, and nothing runs."""
        with self.raises(told, *kinds) as caught:
            one.submit(self.work(), Deadline(LONG_S))
        assert rig.accepted == 0
        return caught.value

    # Opening, health, abilities.

    def test_opening_sends_nothing(self, rig: Rig, one: Backend) -> None:
        assert rig.urls() == []
        assert one.name == self.backend.name
        assert one.target

    def test_without_a_key_it_names_the_setting(
        self, rig: Rig, told: Told, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ours = {f.name for f in fields(Settings)}
        for name, variable in self.keys.items():
            with monkeypatch.context() as patch, self.raises(told, SetupNeeded) as caught:
                patch.delenv(variable, raising=False)
                without = {name: None} if name in ours else {}
                self.backend.open(replace(rig.settings, **without))  # type: ignore[arg-type]
            assert variable in f"{caught.value} {caught.value.hint}"

    def test_health_is_free(self, rig: Rig, one: Backend, told: Told) -> None:
        health = one.health()
        assert health.reachable
        assert (health.backend, health.target) == (one.name, one.target)
        assert health.detail
        assert rig.submits == rig.accepted == 0
        told.texts.append(json.dumps(health.to_json()))

    def test_health_of_a_dead_server_says_what_to_do(
        self, rig: Rig, opened: Callable[..., Backend], told: Told
    ) -> None:
        health = opened(rig.dead).health()
        assert not health.reachable
        assert health.detail
        assert health.hint
        told.texts.append(json.dumps(health.to_json()))

    @plays(Scene.UNAUTHORIZED)
    def test_health_with_a_key_that_is_refused_does_not_raise(
        self, rig: Rig, one: Backend, told: Told
    ) -> None:
        rig.play(Scene.UNAUTHORIZED)
        told.texts.append(json.dumps(one.health().to_json()))
        assert rig.submits == 0

    def test_abilities_are_known_without_asking(self, rig: Rig, one: Backend) -> None:
        able = one.abilities()
        assert able == one.abilities()
        assert able.kinds
        assert able.workflows or able.prompts
        assert 0 <= able.quality <= 3
        assert rig.urls() == []

    def test_abilities_fit_the_job_it_runs_and_nothing_beyond(self, one: Backend) -> None:
        able, need = one.abilities(), self.work().need
        assert list(misfits(need, able)) == []
        assert list(misfits(replace(need, kind="smell"), able))
        asked = {
            "workflow": able.workflows,
            "image_input": able.image_input,
            "lora": able.lora,
            "negative_prompt": able.negative_prompt,
            "seed": able.seed,
        }
        for name, can in asked.items():
            wanted = replace(need, **{name: True})  # type: ignore[arg-type]
            assert bool(list(misfits(wanted, able))) == (not can), name

    def test_a_graph_is_refused_unsent_by_what_runs_none(
        self, rig: Rig, one: Backend, told: Told
    ) -> None:
        if not one.abilities().workflows:
            with self.raises(told, BadRequest):
                one.submit(Work("f" * 32, GRAPH, need=Need(workflow=True)))
            assert rig.submits == 0

    # Money.

    def test_usage_is_told_without_asking(self, rig: Rig, one: Backend) -> None:
        usage = one.usage(self.work().need)
        assert usage.sku
        assert usage.sku == usage.sku.strip()
        assert usage.amount is None or usage.amount >= 0
        assert min(usage.startup_s, usage.idle_s) >= 0
        if usage.unit is not Unit.GPU_SECOND:
            assert usage.amount is not None, "only GPU seconds are not known before the run"
        assert rig.urls() == []

    def test_what_is_billed_is_of_the_unit_and_sku_that_was_told(
        self, rig: Rig, one: Backend, told: Told
    ) -> None:
        rig.play(Scene.SUCCEED)
        need = self.work().need
        before = one.usage(need)
        _, result = self.run(one, told)
        calls = rig.submits
        after = one.billed(need, result)
        assert (after.sku, after.unit) == (before.sku, before.unit)
        assert after.amount is not None
        assert after.amount >= 0
        if before.amount is not None:
            assert after.amount <= before.amount
        assert rig.submits == calls

    def test_what_a_result_says_too_little_of_is_not_billed_as_nothing(self, one: Backend) -> None:
        need = self.work().need
        silent = one.billed(need, Result(attempt_id="a" * 32))
        assert silent.sku == one.usage(need).sku
        if silent.unit is Unit.GPU_SECOND:
            assert silent.amount is None

    # Submit.

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

    # Answers that do not come.

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

    # Follow.

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

    # Fetch.

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
        with self.raises(told, JobFailed) as caught:
            result = self.follow(later, handle, told)
            self.fetch(later, handle, result)
        assert caught.value.code == "result_expired"
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
