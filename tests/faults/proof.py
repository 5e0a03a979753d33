"""The other half of the proof: without its handling a case fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from typing_extensions import Self

from faults.case import Case, prove
from faults.handlings import HANDLINGS
from faults.site import Site


class Lame:
    """A site whose worker can be had without one handling; renewed where a fault has ruined it."""

    def __init__(self, make: Callable[[Path], Site], switch: Path) -> None:
        self._make = make
        self._switch = switch
        self._switch.write_text("")
        self._stack = contextlib.ExitStack()
        self._site: Site | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def fails(self, case: Case) -> str:
        """Play the case without its handling; returns why it fails.

        Raises:
            AssertionError: it does not fail.

        """
        assert case.handling in HANDLINGS, f"{case.handling} cannot be taken out"
        at = self._healthy()
        self._switch.write_text(case.handling)
        try:
            if case.fresh:
                at.replace_worker()
            prove(case, at)
        except AssertionError as reason:
            return str(reason).splitlines()[0] if str(reason) else "an assertion of the case"
        finally:
            self._switch.write_text("")
            if case.fresh:
                self._close()
        raise AssertionError(f"{case.name} is survived without {case.handling}, too")

    def _healthy(self) -> Site:
        """Return a site where a plain job succeeds."""
        if self._site is not None:
            try:
                self._site.heal()
            except AssertionError:
                self._close()
        if self._site is None:
            self._site = self._stack.enter_context(self._make(self._switch))
        return self._site

    def _close(self) -> None:
        site, self._site = self._site, None
        if site is not None:
            # What a failed case leaves behind is no finding.
            with contextlib.suppress(AssertionError):
                self._stack.close()
