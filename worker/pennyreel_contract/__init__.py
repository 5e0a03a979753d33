"""The wire between pennyreel's clients and workers: requests, results, progress, errors.

pydantic and the standard library only. Requests are strict, answers are read leniently, and
everything is frozen.
"""

from pennyreel_contract.errors import (
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
from pennyreel_contract.job import (
    InfoRequest,
    InputFile,
    JobRequest,
    ModelNeed,
    Outputs,
    new_attempt_id,
    parse_request,
)
from pennyreel_contract.progress import Progress, parse_progress
from pennyreel_contract.result import (
    Artifact,
    Gpu,
    Info,
    NodeTiming,
    Result,
    parse_info,
    parse_result,
)
from pennyreel_contract.version import CONTRACT, CONTRACT_MIN, __version__

__all__ = [
    "CONTRACT",
    "CONTRACT_MIN",
    "Artifact",
    "BadRequest",
    "Code",
    "ErrorInfo",
    "Gpu",
    "Info",
    "InfoRequest",
    "InputFile",
    "JobCancelled",
    "JobFailed",
    "JobRequest",
    "JobTimeout",
    "ModelNeed",
    "NodeTiming",
    "OutcomeUnknown",
    "Outputs",
    "PennyreelError",
    "Progress",
    "Result",
    "SetupNeeded",
    "Unavailable",
    "__version__",
    "error",
    "new_attempt_id",
    "parse_info",
    "parse_progress",
    "parse_request",
    "parse_result",
]
