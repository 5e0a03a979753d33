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
from typing import Any, Generic, Protocol, TypeVar

from pennyreel.fleet.devices import override
from pennyreel.fleet.devices.merge import doubts, merge
from pennyreel.fleet.devices.model import Device, Devices, Host
from pennyreel.fleet.devices.outside import NotHere, ProbeFailed

LIMIT_S = 2.0
_MARGIN_S = 0.25
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
        looks = self._looks if given is None else []
        for look in looks:
            look.start()
        self._host.start()
        end = began + self._limit_s - _MARGIN_S
        found: list[Device] = []
        silent: list[str] = []
        for look in looks:
            found += look.collect(end, problems, silent, self._limit_s) or []
        host = self._host.collect(end, problems, [], self._limit_s) or Host()
        devices = merge(found) if given is None else given
        problems += doubts(devices)
        took = time.monotonic() - began
        return Devices(devices, host, took, tuple(problems), tuple(silent))

    def _given(self, problems: list[str]) -> tuple[Device, ...] | None:
        if self._wanted is None or not self._wanted.strip():
            return None
        try:
            devices = override.parse(self._wanted)
        except ValueError as problem:
            problems.append(f"PENNYREEL_DEVICES is passed over: {problem}")
            return None
        return tuple(replace(d, index=i) for i, d in enumerate(devices))


class _Look(Generic[T]):
    """One question in a thread of its own."""

    def __init__(self, name: str, ask: Callable[[], T]) -> None:
        self.name = name
        self._ask = ask
        self._lock = threading.Lock()
        self._done: threading.Event | None = None
        self._answer: Any = None
        self._failure = ""

    def start(self) -> None:
        """Ask, unless the former question still hangs."""
        with self._lock:
            if self._done is not None and not self._done.is_set():
                return
            self._done, self._answer, self._failure = threading.Event(), None, ""
            # Daemon: a probe that hangs must not keep the program from ending.
            thread = threading.Thread(
                target=self._run, args=(self._done,), name=f"pennyreel-{self.name}", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # no more threads, or the interpreter is ending
                self._failure = "it could not be started"
                self._done.set()

    def collect(
        self, end: float, problems: list[str], silent: list[str], limit_s: float
    ) -> T | None:
        """Return the answer; None where there is none by then, having noted why."""
        done = self._done
        if done is None or not done.wait(max(0.0, end - time.monotonic())):
            problems.append(f"{self.name} did not answer within {limit_s:g} s and was left behind")
            silent.append(self.name)
            return None
        if self._failure:
            problems.append(f"{self.name}: {self._failure}")
        answer: T | None = self._answer
        return answer

    def _run(self, done: threading.Event) -> None:
        try:
            self._answer = self._ask()
        except NotHere:
            pass
        except ProbeFailed as problem:
            self._failure = str(problem)[:300]
        except Exception as problem:  # noqa: BLE001 - whatever a driver's library does
            self._failure = f"it failed ({type(problem).__name__})"
        finally:
            done.set()
