"""The breakers that all processes share: each change is compared and swapped in the database."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from pennyreel.routing import breaker as rules
from pennyreel.routing.breaker import DEFAULT, Admission, Breaker, Limits

T = TypeVar("T")

TRIES = 50
"""Swaps that may be lost in a row; each loss is another process's success."""


KeptAs = Callable[[str, str], str]


class Cell(Protocol):
    """Where the breakers are kept, by name: the ledger."""

    def breaker(self, backend: str, /) -> tuple[dict[str, Any] | None, int]:
        """Return a state and its version; (None, 0) where there is none yet."""

    def put_breaker(self, backend: str, state: Mapping[str, Any], /, *, version: int) -> bool:
        """Store a state if it still has this version; else change nothing: False."""


class Breakers:
    """Asks, and tells, the shared breakers; for one job."""

    def __init__(
        self,
        cell: Cell,
        limits: Limits = DEFAULT,
        *,
        kept_as: KeptAs = lambda _backend, key: key,
        named: str | None = None,
    ) -> None:
        """Keep all of it.

        Args:
            cell: where they are.
            limits: when they open.
            kept_as: gives for a backend's name and an option's key the name that its breaker has:
                with other credentials it is another.
            named: the backend, or the key, that the user wants and no other.

        """
        self._cell, self._limits = cell, limits
        self._kept_as, self._named = kept_as, named
        self._probes: set[tuple[str, str]] = set()

    def state(self, key: str) -> Breaker:
        """Return how one stands."""
        return rules.from_json(self._cell.breaker(self._name(key))[0])

    def admit(self, key: str, token: str, at: float) -> Admission:
        """Ask whether a job may go there; see `breaker.admit`."""
        named = self._named in {key, backend_of(key)}
        answer = self._change(key, lambda b: rules.admit(b, token, at, self._limits, named=named))
        if answer is not None and answer.probe:
            self._probes.add((key, token))
        # Whoever lost every swap does not know whether it is the probe: there is one at most.
        return answer if answer is not None else Admission(False, until=at + 1.0)

    def succeeded(self, key: str, token: str, at: float) -> None:
        """Tell that a job went well there."""
        self._change(key, lambda b: (rules.succeeded(b, token, at), None))

    def failed(
        self, key: str, token: str, code: str, at: float, jitter: float, after_s: float | None
    ) -> None:
        """Tell that one did not."""

        def change(breaker: Breaker) -> tuple[Breaker, None]:
            worse = rules.failed(
                breaker, token, code, at, jitter=jitter, retry_after_s=after_s, limits=self._limits
            )
            return worse, None

        self._change(key, change)

    def released(self, key: str, token: str) -> None:
        """Tell that nothing was sent, or nothing was learned."""
        self._change(key, lambda b: (rules.released(b, token), None))

    def let_go(self) -> None:
        """Give back each probe that told nothing: nobody waits any longer for what it tells."""
        while self._probes:
            self.released(*self._probes.pop())

    def _name(self, key: str) -> str:
        return self._kept_as(backend_of(key), key)

    def _change(self, key: str, change: Callable[[Breaker], tuple[Breaker, T]]) -> T | None:
        def changed(state: Mapping[str, Any] | None) -> tuple[Mapping[str, Any] | None, T]:
            before = rules.from_json(state)
            after, answer = change(before)
            return None if after == before else rules.to_json(after), answer

        return swap(self._cell, self._name(key), changed)


def swap(
    cell: Cell,
    name: str,
    change: Callable[[Mapping[str, Any] | None], tuple[Mapping[str, Any] | None, T]],
) -> T | None:
    """Change what is kept by a name, and return what the change answers.

    Args:
        cell: where it is.
        name: its.
        change: gives for a state the next one, None where it stays, and the answer. It is asked
            again when another process was faster.

    Returns:
        The answer; None where every swap was lost, and nothing is changed.

    """
    for _ in range(TRIES):
        state, version = cell.breaker(name)
        after, answer = change(state)
        if after is None or cell.put_breaker(name, after, version=version):
            return answer
    return None


def backend_of(key: str) -> str:
    """Return the backend's name out of an option's key."""
    return key.partition(":")[0]
