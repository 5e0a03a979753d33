"""The errors that this library raises: those of the wire, under this package's name."""

from __future__ import annotations

from pennyreel_contract import (
    BadRequest,
    Code,
    ErrorInfo,
    JobCancelled,
    JobFailed,
    JobTimeout,
    OutcomeUnknown,
    PennyreelError,
    SetupNeeded,
    Unavailable,
    error,
)

__all__ = [
    "BadRequest",
    "Code",
    "ErrorInfo",
    "JobCancelled",
    "JobFailed",
    "JobTimeout",
    "OutcomeUnknown",
    "PennyreelError",
    "SetupNeeded",
    "Unavailable",
    "error",
]
