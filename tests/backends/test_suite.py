"""The suite bites: a backend that lies in one thing fails the test that asks for it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, ClassVar

import pytest
import requests

from backends import test_third_party as tiny
from backends.contract import BackendContract, Told
from backends.rig import Scene
from backends.tiny import TinyBackend
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.need import Unit, Usage
from pennyreel.types import Handle, Health
from pennyreel_contract import Artifact


class Forgetful(TinyBackend):
    def lookup(self, attempt_id: str) -> Handle | None:
        return None


class Confident(TinyBackend):
    def cancel(self, handle: Handle) -> bool:
        super().cancel(handle)
        return True


class Eager(TinyBackend):
    def submit(self, work: Any, deadline: Any = None) -> Handle:
        try:
            return super().submit(work, deadline)
        except PennyreelError:
            return super().submit(work, deadline)


class Hasty(TinyBackend):
    def submit(self, work: Any, deadline: Any = None) -> Handle:
        return super().submit(work, None)


class Strict(TinyBackend):
    def _look(self, handle: Handle) -> dict[str, Any]:
        seen = super()._look(handle)
        if seen["status"] not in {"queued", "running", "done", "failed"}:
            raise error(Code.EXECUTION_FAILED, "what is that?")
        return seen


class Dear(TinyBackend):
    def billed(self, need: Any, result: Any) -> Usage:
        return Usage("tiny/run", Unit.RUN, 1.0)


class Trusting(TinyBackend):
    def fetch(
        self, handle: Handle, artifact: Artifact, sink: Any, cancel: Any, deadline: Any = None
    ) -> None:
        key = {"Authorization": "Bearer " + tiny.KEY}
        sink.restart()
        sink.write(requests.get(artifact.url or "", headers=key, timeout=5).content)


class Curt(TinyBackend):
    def health(self) -> Health:
        self._api.call("GET", "/", timeout=3.0)
        return Health(self.name, True, "up", "", self.target)


class Talkative(TinyBackend):
    def __repr__(self) -> str:
        return f"TinyBackend({tiny.KEY})"


LIES = [
    (Forgetful, "test_an_attempt_that_was_never_sent_is_not_found"),
    (Forgetful, "test_a_lost_answer_is_an_unknown_outcome_and_not_sent_again"),
    (Confident, "test_a_cancel_says_if_it_is_certain"),
    (Confident, "test_a_deadline_stops_the_job_and_says_if_that_is_certain"),
    (Confident, "test_a_server_that_does_not_stop_the_job_is_not_believed"),
    (Eager, "test_a_lost_answer_is_an_unknown_outcome_and_not_sent_again"),
    (Eager, "test_any_other_5xx_is_an_unknown_outcome_and_not_sent_again"),
    (Eager, "test_a_request_that_is_refused_is_not_sent_again"),
    (Hasty, "test_a_deadline_that_has_passed_sends_nothing"),
    (Strict, "test_a_status_that_nobody_knows_means_still_running"),
    (Dear, "test_what_is_billed_is_of_the_unit_and_sku_that_was_told"),
    (Trusting, "test_no_key_goes_to_another_host_with_the_file"),
    (Trusting, "test_a_file_that_arrives_damaged_is_told"),
    (Trusting, "test_a_transfer_that_breaks_begins_anew"),
    (Curt, "test_health_of_a_dead_server_says_what_to_do"),
    (Talkative, "test_health_is_free"),
]


class Played(tiny.TestTiny):
    """The suite, run by hand over one backend."""

    __test__ = False
    liar: type[TinyBackend]

    def open(self, settings: Any, target: str | None = None) -> Any:
        dead = self._rig.nowhere if settings.backend == "dead" else None
        return self.liar.open(settings, target or dead)

    def play(self, name: str) -> None:
        """Do as pytest does: fixtures, the test, the search for keys after it."""
        told, test = Told(), getattr(self, name)
        with ExitStack() as stack:
            opened: list[Any] = []

            def make(*given: Any) -> Any:
                one = self.open(*(given or (self._rig.settings,)))
                stack.callback(one.close)
                opened.append(one)
                return one

            given = {"rig": self._rig, "told": told, "opened": make}
            wanted = inspect.signature(test).parameters
            if "one" in wanted:
                given["one"] = make()
            test(**{name: given[name] for name in wanted})
            told.texts += [repr(one) for one in opened]
        self.search(self._rig, told)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Iterator[Played]:
    with ExitStack() as stack:
        suite = Played()
        suite._rig = tiny.TinyRig(stack)
        monkeypatch.setenv("TINY_KEY", tiny.KEY)
        monkeypatch.setenv("TINY_URL", suite._rig.url)
        monkeypatch.setattr("pennyreel._http.backoff", lambda *_, **__: 0.0)
        yield suite


@pytest.mark.parametrize(("liar", "name"), LIES)
def test_a_lie_is_found(liar: type[TinyBackend], name: str, played: Played) -> None:
    played.liar = liar
    found = (AssertionError, pytest.fail.Exception, requests.RequestException, PennyreelError)
    with pytest.raises(found):
        played.play(name)


@pytest.mark.parametrize("name", sorted({name for _, name in LIES}))
def test_the_truth_passes_the_same_tests(name: str, played: Played) -> None:
    played.liar = TinyBackend
    played.play(name)


def test_a_scene_that_is_lacking_takes_its_tests_along() -> None:
    class Small(BackendContract):
        lacks: ClassVar = {
            Scene.REDIRECT: "it has none",
            Scene.CUT: "its files come with the result",
        }

    left = {n for n in dir(Small) if n.startswith("test_") and getattr(Small, n) is not None}
    every = {n for n in dir(BackendContract) if n.startswith("test_")}
    assert every - left == {
        "test_a_redirect_is_not_followed_with_a_key",
        "test_a_transfer_that_breaks_begins_anew",
    }


def test_every_scene_is_played_by_some_test() -> None:
    tests = [getattr(BackendContract, n) for n in dir(BackendContract) if n.startswith("test_")]
    assert {s for t in tests for s in getattr(t, "scenes", ())} == set(Scene)
