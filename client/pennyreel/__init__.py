"""Make videos and images from prompts or ComfyUI workflows, where it costs least.

    import pennyreel
    clip = pennyreel.generate("a paper boat in the rain", max_cost="0.05")
    print(clip.paths[0])

Names are imported when they are first used, so that `import pennyreel` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pennyreel.aio import AsyncClient as AsyncClient
    from pennyreel.aio import AsyncJob as AsyncJob
    from pennyreel.client import Client as Client
    from pennyreel.client import generate as generate
    from pennyreel.errors import BadRequest as BadRequest
    from pennyreel.errors import Code as Code
    from pennyreel.errors import ErrorInfo as ErrorInfo
    from pennyreel.errors import JobCancelled as JobCancelled
    from pennyreel.errors import JobFailed as JobFailed
    from pennyreel.errors import JobTimeout as JobTimeout
    from pennyreel.errors import OutcomeUnknown as OutcomeUnknown
    from pennyreel.errors import PennyreelError as PennyreelError
    from pennyreel.errors import SetupNeeded as SetupNeeded
    from pennyreel.errors import Unavailable as Unavailable
    from pennyreel.hooks import Hook as Hook
    from pennyreel.hooks import LoggingHook as LoggingHook
    from pennyreel.jobs import Job as Job
    from pennyreel.types import Artifact as Artifact
    from pennyreel.types import ArtifactSaved as ArtifactSaved
    from pennyreel.types import Attempt as Attempt
    from pennyreel.types import Chosen as Chosen
    from pennyreel.types import Detached as Detached
    from pennyreel.types import Finished as Finished
    from pennyreel.types import Handle as Handle
    from pennyreel.types import Health as Health
    from pennyreel.types import JobEvent as JobEvent
    from pennyreel.types import Progressed as Progressed
    from pennyreel.types import Queued as Queued
    from pennyreel.types import RunResult as RunResult
    from pennyreel.types import Started as Started
    from pennyreel.types import Submitted as Submitted
    from pennyreel.types import Told as Told
    from pennyreel.types import Warned as Warned
    from pennyreel_contract.version import __version__ as __version__

_HOME = {
    "Artifact": "types",
    "ArtifactSaved": "types",
    "AsyncClient": "aio",
    "AsyncJob": "aio",
    "Attempt": "types",
    "BadRequest": "errors",
    "Chosen": "types",
    "Client": "client",
    "Code": "errors",
    "Detached": "types",
    "ErrorInfo": "errors",
    "Finished": "types",
    "Handle": "types",
    "Health": "types",
    "Hook": "hooks",
    "Job": "jobs",
    "JobCancelled": "errors",
    "JobEvent": "types",
    "JobFailed": "errors",
    "JobTimeout": "errors",
    "LoggingHook": "hooks",
    "OutcomeUnknown": "errors",
    "PennyreelError": "errors",
    "Progressed": "types",
    "Queued": "types",
    "RunResult": "types",
    "SetupNeeded": "errors",
    "Started": "types",
    "Submitted": "types",
    "Told": "types",
    "Unavailable": "errors",
    "Warned": "types",
    "generate": "client",
}

__all__ = [
    "Artifact",
    "ArtifactSaved",
    "AsyncClient",
    "AsyncJob",
    "Attempt",
    "BadRequest",
    "Chosen",
    "Client",
    "Code",
    "Detached",
    "ErrorInfo",
    "Finished",
    "Handle",
    "Health",
    "Hook",
    "Job",
    "JobCancelled",
    "JobEvent",
    "JobFailed",
    "JobTimeout",
    "LoggingHook",
    "OutcomeUnknown",
    "PennyreelError",
    "Progressed",
    "Queued",
    "RunResult",
    "SetupNeeded",
    "Started",
    "Submitted",
    "Told",
    "Unavailable",
    "Warned",
    "__version__",
    "generate",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("pennyreel_contract.version").__version__
    if name in _HOME:
        found = getattr(importlib.import_module(f"pennyreel.{_HOME[name]}"), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module 'pennyreel' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
