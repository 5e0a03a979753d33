"""All probes at once under one deadline. It never raises and never takes longer than two seconds.

A probe that hangs is left behind in its thread and reported as such: neither NVIDIA's driver nor
a dead network drive can be interrupted. It is not started again while it hangs, and where it
answers after all, the next look has its answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from pennyreel.fleet.devices import override
from pennyreel.fleet.devices.merge import doubts, merge
from pennyreel.fleet.devices.model import Device, Devices, Host
from pennyreel.fleet.devices.outside import NotHere, ProbeFailed

LIMIT_S = 2.0
_MARGIN_S = 0.4
"""Kept back from the limit for starting threads, merging, and a machine that is busy."""

T = TypeVar("T")


class Probe(Protocol):
    """One way to find GPUs."""

    @property
    def name(self) -> str:
        """As it stands in a device's `source`."""

    def look(self) -> list[Device]:
        """Return what it finds; raises `NotHere`, `ProbeFailed`, or anything."""


class FirstOf:
    """Several ways to the same GPUs: the first that finds any counts."""

    def __init__(self, *probes: Probe) -> None:
        """The strongest comes first, and gives the name."""
        self._probes = probes
        self.name = probes[0].name

    def look(self) -> list[Device]:
        """Return the first one's GPUs; raises what the first one raised that was not `NotHere`."""
        failure: ProbeFailed | None = None
        for probe in self._probes:
            try:
                found = probe.look()
            except NotHere:
                continue
            except ProbeFailed as problem:
                failure = failure or problem
                continue
            if found:
                return found
        if failure is not None:
            raise failure
        return []


class Detector:
    """Looks at one machine, as often as it is asked. Thread-safe."""

    def __init__(
        self,
        probes: Sequence[Probe],
        host: Callable[[], Host],
        wanted: str | None = None,
        limit_s: float = LIMIT_S,
    ) -> None:
        """Keep them; nothing is looked at yet.

        Args:
            probes: what to ask.
            host: tells of processor and memory; it may hang, too.
            wanted: the user's own word on the GPUs; see `override`.
            limit_s: how long `detect` may take.

        """
        self._probes = list(probes)
        self._host = _Look("host", host)
        self._looks = [_Look(p.name, p.look) for p in self._probes]
        self._wanted = wanted
        self._limit_s = limit_s

    def detect(self) -> Devices:
        """Look, and return what is known by the time limit."""
        began = time.monotonic()
        problems: list[str] = []
        given = self._given(problems)
        asked = [(k.name, k.start()) for k in (self._looks if given is None else [])]
        host = self._host.start()
        end = began + self._limit_s - _MARGIN_S
        found = [d for name, answer in asked for d in self._wait(name, answer, end, problems) or ()]
        known = self._wait(self._host.name, host, end, problems) or Host()
        devices = merge(found) if given is None else given
        return Devices(
            devices=devices,
            host=known,
            took_s=time.monotonic() - began,
            problems=(*problems, *doubts(devices)),
            silent=tuple(name for name, answer in asked if not answer.done.is_set()),
        )

    def _wait(self, name: str, answer: _Answer[T], end: float, problems: list[str]) -> T | None:
        """Return the answer; None where there is none by then, having noted why."""
        if not answer.done.wait(max(0.0, end - time.monotonic())):
            limit = f"{self._limit_s:g} s"
            problems.append(f"{name} did not answer within {limit} and was left behind")
            return None
        if answer.failure:
            problems.append(f"{name}: {answer.failure}")
        return answer.value

    def _given(self, problems: list[str]) -> tuple[Device, ...] | None:
        if self._wanted is None or not self._wanted.strip():
            return None
        try:
            devices = override.parse(self._wanted)
        except ValueError as problem:
            problems.append(f"devices (PENNYREEL_DEVICES) is passed over: {problem}")
            return None
        return tuple(replace(d, index=i) for i, d in enumerate(devices))


class _Answer(Generic[T]):
    """What one question in its thread comes to."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.value: T | None = None
        self.failure = ""

    def ask(self, question: Callable[[], T]) -> None:
        """Ask, and keep whatever comes."""
        try:
            self.value = question()
        except NotHere:
            pass
        except ProbeFailed as problem:
            self.failure = str(problem)[:300]
        except Exception as problem:  # noqa: BLE001 - whatever a driver's library does
            self.failure = f"it failed ({type(problem).__name__})"
        finally:
            self.done.set()


class _Look(Generic[T]):
    """One question, asked in a thread of its own, and not again while that hangs."""

    def __init__(self, name: str, question: Callable[[], T]) -> None:
        self.name = name
        self._question = question
        self._lock = threading.Lock()
        self._last: _Answer[T] | None = None

    def start(self) -> _Answer[T]:
        """Ask, or return the answer that is still awaited."""
        with self._lock:
            if self._last is not None and not self._last.done.is_set():
                return self._last
            answer = self._last = _Answer[T]()
        # Daemon: a probe that hangs must not keep the program from ending.
        thread = threading.Thread(
            target=answer.ask,
            args=(self._question,),
            name=f"pennyreel-probe-{self.name}",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError:  # no more threads, or the interpreter is ending
            answer.failure = "it could not be started"
            answer.done.set()
        return answer
