"""What a batch is made of: a file with a wish a line, and a note of what has come of each."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pennyreel.errors import Code, error

STATE = ".pennyreel-batch.jsonl"
"""Beside the output. It has digests of wishes, no prompt."""

HELD = frozenset({Code.STORAGE_FAILED.value, Code.UNKNOWN_OUTCOME.value})
"""Ends of jobs that are, or may be, paid for: such a line is not sent again by itself."""


@dataclass(frozen=True)
class Line:
    """One wish of the file."""

    number: int
    """From 1, as an editor counts."""
    prompt: str = field(repr=False)
    options: Mapping[str, Any] = field(repr=False)
    key: str = ""
    """Names the wish in the state file."""


@dataclass(frozen=True)
class Before:
    """What an earlier run left of a line."""

    state: str
    """started, done or failed."""
    job_id: str
    code: str = ""
    paths: tuple[str, ...] = ()


def lines(
    text: str, known: Iterable[str], usual: Mapping[str, Any], *, aside: Collection[str] = ()
) -> list[Line]:
    """Read a wish a line: a prompt, or a JSON object with `prompt` and wishes. Empty ones are none.

    Args:
        text: the file's.
        known: names that an object may have, besides `prompt`.
        usual: wishes of every line that does not say otherwise.
        aside: names that make no other wish of it, such as what it may cost.

    Raises:
        BadRequest: naming the line that is wrong.

    """
    names, seen = frozenset(known), Counter[str]()
    found = []
    for number, one in enumerate(text.splitlines(), 1):
        if not one.strip():
            continue
        own = _object(number, one) if one.lstrip().startswith("{") else {"prompt": one.strip()}
        prompt = own.pop("prompt", None)
        odd = sorted(set(own) - names)
        if odd or not isinstance(prompt, str):
            what = f"has an unknown {odd[0]!r}" if odd else "has no prompt"
            hint = f"It may have prompt, {', '.join(sorted(names))}"
            raise error(Code.BAD_REQUEST, f"line {number} {what}", hint=hint)
        whole = {**usual, **own, "prompt": prompt}
        digest = _digest({name: whole[name] for name in whole if name not in aside})
        seen[digest] += 1  # the same wish twice is two jobs
        found.append(Line(number, prompt, own, f"{digest}.{seen[digest]}"))
    return found


class State:
    """What has come of each line, in a file that is only added to."""

    def __init__(self, file: Path) -> None:
        """Read what there is; a last line that was cut off counts as not written."""
        self._file = file
        self._known: dict[str, Before] = {}
        self._cut = False
        try:
            text = file.read_text("utf-8", errors="replace")
        except FileNotFoundError:
            return
        self._cut = bool(text) and not text.endswith("\n")
        for one in text.splitlines():
            self._read(one)

    def before(self, key: str) -> Before | None:
        """Return what an earlier run left of a line."""
        return self._known.get(key)

    def write(self, key: str, state: str, job_id: str, **more: Any) -> None:
        """Add a word; it is on the disk when this returns.

        Raises:
            SetupNeeded: it cannot be written.

        """
        word = json.dumps({"key": key, "state": state, "job_id": job_id, **more})
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(("\n" if self._cut else "") + word + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as problem:
            raise error(
                Code.NOT_CONFIGURED,
                f"the state of the batch cannot be kept in {self._file} ({problem.strerror})",
                hint="Free some space there, or name another folder with --out.",
            ) from None
        self._cut = False
        self._read(word)

    def _read(self, word: str) -> None:
        try:
            body = json.loads(word)
            before = Before(
                str(body["state"]),
                str(body["job_id"]),
                str(body.get("code", "")),
                tuple(map(str, body.get("paths", ()))),
            )
            self._known[str(body["key"])] = before
        except (ValueError, KeyError, TypeError, AttributeError):
            return


def _object(number: int, text: str) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except ValueError:
        raise error(
            Code.BAD_REQUEST,
            f"line {number} begins like a JSON object and is none",
            hint='Write it like {"prompt": "a boat", "seed": 7}, on one line.',
        ) from None
    return dict(body)


def _digest(wish: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(wish, sort_keys=True, default=str).encode()).hexdigest()[:32]
