"""What the suite's tests are made of."""

from __future__ import annotations

import logging
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from backends.rig import Rig, Scene, Store
from client.support import GRAPH
from pennyreel import _http
from pennyreel.backends.base import Backend, Work
from pennyreel.config import Settings
from pennyreel.errors import (
    BadRequest,
    JobFailed,
    OutcomeUnknown,
    PennyreelError,
    SetupNeeded,
    Unavailable,
)
from pennyreel.need import Need
from pennyreel.types import Handle
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Result

REFUSED = (BadRequest, SetupNeeded, Unavailable)
LONG_S = 60.0
"""No test waits for it; it only ends a test that would hang."""


@dataclass
class Told:
    """What a test saw and raised, all of which is searched for keys."""

    events: list[Any] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


class Suite:
    """The suite. Names without `test_` are for subclasses."""

    backend: ClassVar[type[Backend]]
    keys: ClassVar[Mapping[str, str]] = {}
    """Field of Settings -> the variable that sets it; opening without it has to name that. Another
    package's backend, which has no field there, writes the variable twice."""
    gone: ClassVar[type[PennyreelError]] = JobFailed
    """Of a job that it no longer knows; OutcomeUnknown where it may never have run."""
    lacks: ClassVar[Mapping[Scene, str]] = {}
    """Scenes that this API cannot play, and why."""

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
