"""Hosts of models on loopback, and rules that let them be asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from comfy.models.library import Library


@pytest.fixture
def open_library() -> Iterator[Callable[[], Library]]:
    """`open_library()`: one more host."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Library())


@pytest.fixture
def library(open_library: Callable[[], Library]) -> Library:
    """One host of models."""
    return open_library()
