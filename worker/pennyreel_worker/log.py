"""The worker's log: one line an event, with the job's id; never a result, a URL or a key."""

from __future__ import annotations

import logging
import sys

from pennyreel_contract import Code, PennyreelError, error

log = logging.getLogger("pennyreel_worker")


class _Format(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        job = getattr(record, "job", None)
        where = f" [{job}]" if job else ""
        return f"pennyreel | {record.levelname.lower()}{where} {super().format(record)}"


def set_up(level: int = logging.INFO) -> None:
    """Send our own log to stderr; the SDK has a logger of its own."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Format("%(message)s"))
    root = logging.getLogger("pennyreel_worker")
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False


def to_error(problem: Exception, job_id: str) -> PennyreelError:
    """Log why a job fails, and return the error that the client sees.

    A bug is logged with its traceback; the client sees its name alone.
    """
    if isinstance(problem, PennyreelError):
        log.warning("failed: %s: %s", problem.code, problem, extra={"job": job_id})
        return problem
    log.error("unexpected %s", type(problem).__name__, exc_info=problem, extra={"job": job_id})
    return error(
        Code.INTERNAL, f"the worker has a bug here: {type(problem).__name__}", retryable=False
    )
