"""Run ComfyUI workflows on this machine, on a ComfyUI by its URL, or on RunPod serverless.

    import pennyreel
    result = pennyreel.Client().run("shot.json", set={"3.seed": 7})
    print(result.artifacts[0].path)

Names are imported when they are first used, so that `import pennyreel` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pennyreel.client import Client as Client
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
    from pennyreel.jobs import Job as Job
    from pennyreel.types import Artifact as Artifact
    from pennyreel.types import ArtifactSaved as ArtifactSaved
    from pennyreel.types import Attempt as Attempt
    from pennyreel.types import Chosen as Chosen
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
    "Attempt": "types",
    "BadRequest": "errors",
    "Chosen": "types",
    "Client": "client",
    "Code": "errors",
    "ErrorInfo": "errors",
    "Finished": "types",
    "Handle": "types",
    "Health": "types",
    "Job": "jobs",
    "JobCancelled": "errors",
    "JobEvent": "types",
    "JobFailed": "errors",
    "JobTimeout": "errors",
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
}

__all__ = [
    "Artifact",
    "ArtifactSaved",
    "Attempt",
    "BadRequest",
    "Chosen",
    "Client",
    "Code",
    "ErrorInfo",
    "Finished",
    "Handle",
    "Health",
    "Job",
    "JobCancelled",
    "JobEvent",
    "JobFailed",
    "JobTimeout",
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
