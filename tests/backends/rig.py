"""What the contract suite drives: a backend's server, which plays one scene after the other."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar

from client.support import Request
from pennyreel.config import Settings
from pennyreel.types import Handle

F = TypeVar("F", bound=Callable[..., Any])


class Scene(Enum):
    """How the server behaves to what comes from now on, until the next scene."""

    SUCCEED = "takes the job; it ends well with one artifact, whose bytes are `rig.content`"
    SLOW = "as SUCCEED, but the job is first seen queued and running, two looks or more"
    STRANGE = "as SLOW, with a remote status that nobody has ever heard of in between"
    FAIL = "takes the job; it fails in its run"
    FILTERED = "the content is refused, at once or after the run; a retry cannot help"
    HANG = "takes the job; it runs until it is cancelled"
    DEAF = "as HANG, and the server says no to a cancel, or does not act on it"
    LOST = "takes the job, which ends well, and cuts the connection instead of answering"
    GARBLED = "takes the job, which ends well, and answers 200 with what is not to be read"
    NEVER_CAME = "the connection breaks after the request was sent; the server took nothing"
    BROKEN = "takes nothing, and answers a 5xx that may as well mean that it did"
    BUSY = "takes nothing: a 5xx that the API's documentation calls a refusal"
    RATE_LIMITED = "takes nothing: 429 with `Retry-After: 7`, always"
    UNAUTHORIZED = "takes nothing: the key is refused"
    UNPAID = "takes nothing: 402, or the API's own word for an empty account"
    INVALID = "takes nothing: the request is refused for what it holds"
    REDIRECT = "answers the submit with a redirect to `rig.elsewhere`"
    EXPIRED = "takes the job, which ends well; its result or its file is gone when asked for"
    CUT = "as SUCCEED; the file's first transfer breaks off in its middle, the next one is whole"
    DAMAGED = "as SUCCEED; the file's transfers are never what the result says they are"
    ELSEWHERE = "as SUCCEED; the file lies on another host, `rig.elsewhere`, which serves it"
    PRIVATE = "as SUCCEED; the file's URL is at a private address, https://10.11.12.13/…"


class Rig(ABC):
    """A server for one test, and the settings that lead to it. Subclass it for a backend."""

    settings: Settings
    """Open the backend against the server that runs."""
    dead: Settings
    """The same with an address at which nothing listens (`dead_port`)."""
    secrets: tuple[str, ...]
    """Every key that `settings` holds, as text."""
    content: bytes
    """Of the one artifact that a job makes; longer than 20 bytes."""

    @abstractmethod
    def play(self, scene: Scene) -> None:
        """Behave so from now on."""

    @property
    @abstractmethod
    def submits(self) -> int:
        """How many calls that can cost money have arrived, whatever was answered."""

    @property
    @abstractmethod
    def accepted(self) -> int:
        """How many jobs the server took."""

    @abstractmethod
    def stopped(self, handle: Handle) -> bool:
        """Whether this job has been stopped at the server, as the server knows it."""

    @abstractmethod
    def urls(self) -> list[str]:
        """Every path with its query that was asked for: keys have no business there."""

    def elsewhere(self) -> list[Request]:
        """What a second server got, to which no key may go."""
        return []


class Store:
    """A sink in memory that remembers how often it began anew."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.restarts = 0

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def write(self, data: bytes) -> None:
        self.data += data

    def restart(self) -> None:
        self.data.clear()
        self.restarts += 1


def plays(*scenes: Scene) -> Callable[[F], F]:
    """Mark a test of the suite with the scenes that it needs: see `BackendContract.lacks`."""

    def mark(test: F) -> F:
        test.scenes = scenes  # type: ignore[attr-defined]
        return test

    return mark
