"""What a batch is made of: a file with a wish a line, and a note of what has come of each."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pennyreel import spelling
from pennyreel.errors import Code, error
from pennyreel.spelling import Finding

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
    text: str, known: Collection[str], usual: Mapping[str, Any], *, aside: Collection[str] = ()
) -> list[Line]:
    """Read a wish a line: a prompt, or a JSON object with `prompt` and wishes. Empty ones are none.

    Args:
        text: the file's.
        known: names that an object may have, besides `prompt`.
        usual: wishes of every line that does not say otherwise.
        aside: names that make no other wish of it, such as what it may cost.

    Raises:
        BadRequest: naming each line that is wrong, and what is.

    """
    from pennyreel.batch import numbered
    from pennyreel.options import findings

    names, seen = {*known, "prompt"}, Counter[str]()
    found: list[Line] = []
    wrong: list[Finding] = []
    for number, one in enumerate(text.splitlines(), 1):
        if not one.strip():
            continue
        own, told = _read(one, names)
        told = told or findings(own["prompt"], {**usual, **own})
        wrong += numbered(told, number)
        if told:
            continue
        whole = {**usual, **own}
        digest = _digest({name: whole[name] for name in whole if name not in aside})
        seen[digest] += 1  # the same wish twice is two jobs
        found.append(Line(number, own.pop("prompt"), own, f"{digest}.{seen[digest]}"))
    if wrong:
        hint = 'Write it like {"prompt": "a boat", "seed": 7}, on one line. It may have prompt, '
        hint += ", ".join(sorted(known))
        raise spelling.refused(wrong, what="line", hint=hint)
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


def _read(text: str, names: Collection[str]) -> tuple[dict[str, Any], list[Finding]]:
    """Return a line's wish, and what keeps it from being one."""
    from pennyreel.batch import misspelt

    if not text.lstrip().startswith("{"):
        return {"prompt": text.strip()}, []
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return {}, [Finding("", " begins like a JSON object and is none")]
    return body, misspelt(body, names)


def _digest(wish: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(wish, sort_keys=True, default=str).encode()).hexdigest()[:32]
