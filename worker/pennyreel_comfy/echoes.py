"""Keeps what we told a server out of what it tells us: some quote a request, with its key.

What a server says goes into errors, ledgers and logs; so a key, a prompt and a signed address are
taken out of the answer itself, before anybody reads it.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any
from urllib.parse import parse_qsl, quote

import requests

HIDDEN = b"***"
SHORTEST = 8
"""A value of fewer characters is no key, and to hide it would hide the answer."""

PHRASE = 20
"""A text of so many characters with blanks among them is a prompt."""

PROMPT = "[prompt]"
"""Stands where a prompt was quoted."""

_KEYS = ("Authorization", "Proxy-Authorization", "x-goog-api-key", "Cookie")


def hide(reply: requests.Response) -> None:
    """Take out of a whole answer what its request carried: keys; in a refusal, its words, too."""
    hidden = set(_keys(reply.request))
    if not reply.ok:
        hidden |= set(_words(reply.request))
    content = reply.content
    for text in sorted(hidden, key=len, reverse=True):
        for form in _forms(text):
            content = content.replace(form, HIDDEN)
    reply._content = content  # noqa: SLF001 - there is no other way to change what it says


def hide_in(text: str, headers: dict[str, str]) -> str:
    """Return a message of a server without the keys in the headers that it was sent."""
    for key in sorted(_of_headers(headers), key=len, reverse=True):
        text = text.replace(key, HIDDEN.decode())
    return text


def unquoted(text: str, phrases: Iterable[str], mark: str = PROMPT) -> str:
    """Return a text without what it quotes of these phrases, whole or `PHRASE` characters of them.

    In any case of letters and any spelling that is known; a phrase of one or two characters is
    none.
    """
    forms = {
        f.decode().casefold() for p in phrases if len(p.strip()) > 2 for f in _forms(p.strip())
    }
    low = text.casefold()
    if len(low) != len(text):  # some letters become two: then that spelling is kept
        text = low
    quoted = [False] * len(text)
    pieces = {f[n : n + PHRASE] for f in forms for n in range(max(1, len(f) - PHRASE + 1))}
    for size in {len(piece) for piece in pieces}:
        for n in range(len(low) - size + 1):
            if low[n : n + size] in pieces:
                quoted[n : n + size] = [True] * size
    parts = groupby(zip(text, quoted, strict=True), key=lambda one: one[1])
    return "".join(mark if hit else "".join(c for c, _ in run) for hit, run in parts)


def _keys(request: requests.PreparedRequest) -> Iterator[str]:
    yield from _of_headers({name: str(value) for name, value in request.headers.items()})


def _of_headers(headers: dict[str, str]) -> Iterator[str]:
    for name in _KEYS:
        value = next((v for n, v in headers.items() if n.lower() == name.lower()), "")
        scheme, _, rest = value.partition(" ")
        found = [value, rest.strip()]
        if scheme.lower() == "basic":
            found.append(_password(rest.strip()))
        yield from (text for text in found if len(text) >= SHORTEST)


def _password(told: str) -> str:
    try:
        return base64.b64decode(told, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


def _words(request: requests.PreparedRequest) -> Iterator[str]:
    """Yield the prompts, signed addresses and form fields of a request."""
    body = request.body
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    if not isinstance(text, str):  # a file on its way
        return
    if "urlencoded" in str(request.headers.get("Content-Type")):
        yield from (value for _, value in parse_qsl(text) if len(value) >= SHORTEST)
        return
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return
    yield from private_texts(told)


def private_texts(body: Any) -> Iterator[str]:
    """Yield the texts in JSON that are prompts or signed addresses, by their looks."""
    yield from (one for one in _texts(body) if _private(one))


def _texts(body: Any) -> Iterator[str]:
    if isinstance(body, str):
        yield body
    elif isinstance(body, (dict, list)):
        for one in body.values() if isinstance(body, dict) else body:
            yield from _texts(one)


def _private(text: str) -> bool:
    address = "://" in text and ("?" in text or "@" in text)
    return address or (len(text) >= PHRASE and " " in text.strip())


def _forms(text: str) -> set[bytes]:
    """Return the ways in which an answer may spell it."""
    escaped = (json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])
    spelt = {text, *escaped, quote(text, safe=""), quote(text)}
    return {one.encode("utf-8", "replace") for one in spelt}
