"""How a job that did not succeed is told: one error, with every attempt and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence

from pennyreel.errors import Code, ErrorInfo, PennyreelError
from pennyreel.money.amounts import dollars
from pennyreel.money.records import Attempt as Open
from pennyreel.routing.driver import Ended
from pennyreel.routing.machine import Option, Outcome, Trouble

_ENDS: dict[Outcome, tuple[Code, str]] = {
    Outcome.CANCELLED: (Code.CANCELLED, "the job was cancelled"),
    Outcome.UNKNOWN: (
        Code.UNKNOWN_OUTCOME,
        "nobody knows whether the job ran; it counts as spent, and nothing else was tried",
    ),
    Outcome.UNFETCHED: (Code.STORAGE_FAILED, "the job is done, and its files are not here"),
    Outcome.REFUSED: (Code.NOT_CONFIGURED, "nothing was sent"),
    Outcome.FAILED: (Code.BACKEND_UNAVAILABLE, "no backend made it"),
}

_AGAIN = "Send it again"
"""How a backend's hint begins that knows only its attempt."""


def failure(ended: Ended) -> PennyreelError | None:
    """Return the error that a job ended with; None if it is done.

    `info.detail["attempts"]` has, for each option tried or passed over, its backend, code, message
    and hint. One trouble keeps its own class and code; of several, what the caller does next
    decides: look it up, fetch again, or read each one's hint.
    """
    if ended.outcome is Outcome.DONE:
        return None
    code, text = _ENDS[ended.outcome]
    own = ended.outcome in {Outcome.FAILED, Outcome.REFUSED, Outcome.UNFETCHED}
    known = [t for _, t in ended.troubles]
    told = "; ".join(f"{option.key}: {trouble.text}" for option, trouble in ended.troubles)
    first = known[-1] if ended.outcome is Outcome.UNFETCHED and known else None
    single = known[0] if len(known) == 1 else first
    detail: dict[str, object] = {
        "outcome": ended.outcome.value,
        "attempts": [_attempt(option, trouble) for option, trouble in ended.troubles],
    }
    if ended.handle is not None:
        detail["handle"] = str(ended.handle)
    return PennyreelError.from_info(
        ErrorInfo(
            code=single.code if own and single is not None else code.value,
            message=f"{text}: {told}" if told else text,
            hint=_hint(ended),
            retryable=ended.outcome is Outcome.FAILED and any(t.retryable for t in known),
            detail=detail,
        )
    )


def left(job_id: str, why: str, still: Sequence[Open]) -> PennyreelError:
    """Return the error of a job that nobody waits for any longer, with what may still run."""
    held = sum(a.reserved for a in still)
    names = ", ".join(f"{a.backend}:{a.target}" if a.target else a.backend for a in still)
    told = f"{why}; it may run at {names} still, and {dollars(held)} count as spent"
    return PennyreelError.from_info(
        ErrorInfo(
            code=Code.TIMEOUT.value,
            message=told if still else why,
            hint=f"Look again what became of it: pennyreel jobs resume {job_id}",
            retryable=False,  # another would be paid for beside it
            detail={"job_id": job_id, "confirmed_stopped": not still},
        )
    )


def _attempt(option: Option, trouble: Trouble) -> dict[str, object]:
    return {
        "backend": option.backend,
        "target": option.target,
        "code": trouble.code,
        "message": trouble.text,
        "hint": trouble.hint,
    }


def _hint(ended: Ended) -> str:
    """Return what can be done, for each backend; a hint that is said twice is said once."""
    if ended.outcome is Outcome.UNFETCHED:
        return f"Fetch them again: pennyreel jobs fetch {ended.job_id}"
    hints: dict[str, list[str]] = {}
    for option, trouble in ended.troubles:
        if trouble.hint:
            hints.setdefault(_named(trouble.hint, ended), []).append(option.key)
    return " ".join(f"{', '.join(keys)}: {hint}" for hint, keys in hints.items())


def _named(hint: str, ended: Ended) -> str:
    """Return the hint; who is to send the job again is told how."""
    if ended.outcome is Outcome.FAILED and hint.startswith(_AGAIN):
        return f"{_AGAIN}: pennyreel jobs retry {ended.job_id[:12]}"
    return hint
