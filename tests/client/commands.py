"""The command line, called in this process."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import pytest

from pennyreel.cli.app import run


class Ran(NamedTuple):
    """What a command printed and how it exited."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Ran]


def called(capsys: pytest.CaptureFixture[str], *args: object, stdin: str = "") -> Ran:
    """Run it; no key that tests know may be shown."""
    capsys.readouterr()
    with mock.patch.object(sys, "stdin", io.StringIO(stdin)):
        code = run([str(a) for a in args])
    seen = capsys.readouterr()
    assert "SECRET_never_shown" not in seen.out + seen.err
    return Ran(code, seen.out, seen.err)
