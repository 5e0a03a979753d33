"""What a prediction's end means: files, or an error by Replicate's own code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import Any, NamedTuple, NoReturn
from urllib.parse import unquote, urlsplit

from pennyreel.errors import Code, PennyreelError, error
from pennyreel_comfy.outputs import mime_of, plain_name
from pennyreel_contract import Artifact, Gpu, Result

FINAL = frozenset({"succeeded", "failed", "canceled", "aborted"})
"""Every other status, known or not, means that it still runs."""

KEPT = timedelta(hours=1)
"""Inputs, outputs and logs of predictions made by API (docs: data-retention)."""

_CODE = re.compile(r"\b(E\d{4})\b|\(code: (\w+)\)")
_SEED = re.compile(r"Using seed: (\d+)")
_STEP = re.compile(r"(\d+)%\|[^|]*\|\s*(\d+)/(\d+)")
_ENDINGS = {"video/mp4": "mp4", "image/gif": "gif", "video/webm": "webm", "image/png": "png"}


class _Meaning(NamedTuple):
    code: Code
    retryable: bool
    hint: str


# replicate.com/docs/reference/error-codes; PA is not in it, but in public repositories.
_MEANINGS = {
    "E1000": _Meaning(Code.EXECUTION_FAILED, True, "Try again: Replicate names no cause."),
    "E1001": _Meaning(Code.OUT_OF_MEMORY, False, "Use a smaller size, or another backend."),
    "E6716": _Meaning(Code.EXECUTION_FAILED, True, "Try again later: it could not be started."),
    "PA": _Meaning(Code.EXECUTION_FAILED, True, "Try again: Replicate interrupted it."),
}
_DIRECTOR = _Meaning(
    Code.EXECUTION_FAILED, True, "Try again: Replicate's own machinery failed, not the model."
)
_FILTERED = _Meaning(
    Code.EXECUTION_FAILED, False, "Change the prompt, or use a backend that does not filter."
)
_OTHER = _Meaning(Code.EXECUTION_FAILED, False, "Change the prompt or the seed; see its logs.")


def outcome(seen: Mapping[str, Any], attempt_id: str, hardware: str) -> Result:
    """Return the result of a prediction that succeeded; raise what its end means otherwise."""
    if seen.get("status") != "succeeded":
        _fail(seen)
    seconds = predict_time(seen)
    return Result(
        attempt_id=attempt_id,
        artifacts=_artifacts(seen),
        timings=_timings(seen),
        gpu=None if seconds is None else Gpu(name=hardware, type="cuda", seconds=seconds),
        seed=_seed(seen),
        worker={"replicate": str(seen.get("version") or "")},
    )


def predict_time(seen: Mapping[str, Any]) -> float | None:
    """Seconds that Replicate bills; None where it does not say."""
    return _seconds(seen, "predict_time")


def progress(seen: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """Return (percent, step, steps) of the last progress bar in the logs."""
    found = _STEP.findall(str(seen.get("logs") or "")[-4000:])
    if not found:
        return None
    percent, step, steps = map(int, found[-1])
    return min(100, percent), step, steps


def _fail(seen: Mapping[str, Any]) -> NoReturn:
    status, seconds = seen.get("status"), predict_time(seen)
    detail: dict[str, Any] = {"prediction": seen.get("id"), "gpu_seconds": seconds}
    if status == "aborted":
        raise error(
            Code.TIMEOUT,
            "Replicate gave the job up before it started: no GPU was free in its time "
            "(Cancel-After); it is not billed",
            hint="Try again later, allow more time, or use another backend.",
            detail={**detail, "confirmed_stopped": True, "gpu_seconds": 0.0},
        )
    if status == "canceled":
        raise _canceled(seen, detail)
    says = str(seen.get("error") or "failed without a reason").strip()[:2000]
    meaning, named = _meaning(says)
    raise error(
        meaning.code,
        f"Replicate: {says}",
        hint=meaning.hint,
        retryable=meaning.retryable,
        detail={**detail, "replicate_code": named},
    )


def _canceled(seen: Mapping[str, Any], detail: dict[str, Any]) -> PennyreelError:
    """Tell a deadline from a hand. `deadline` is not documented, and may be missing."""
    detail = {**detail, "confirmed_stopped": True}
    deadline, ended = _moment(seen.get("deadline")), _moment(seen.get("completed_at"))
    if deadline and ended and ended >= deadline - timedelta(seconds=1):
        return error(
            Code.TIMEOUT,
            "the job ran longer than Replicate was told to let it (Cancel-After)",
            detail=detail,
        )
    return error(
        Code.CANCELLED, "the job was cancelled at Replicate, by hand or by its limit", detail=detail
    )


def _meaning(says: str) -> tuple[_Meaning, str | None]:
    found = _CODE.search(says)
    named = (found[1] or found[2]) if found else None
    if named in _MEANINGS:
        return _MEANINGS[named], named
    if says.startswith("Director:"):  # of several codes; public repositories tell of E8765, E9828
        return _DIRECTOR, named
    if "nsfw" in says.lower():
        return _FILTERED, named
    return _OTHER, named


def _artifacts(seen: Mapping[str, Any]) -> tuple[Artifact, ...]:
    output = seen.get("output")
    urls = [u for u in (output if isinstance(output, list) else [output]) if isinstance(u, str)]
    if urls:
        ended = _moment(seen.get("completed_at"))
        expires = ended + KEPT if ended else None
        return tuple(_artifact(url, n, expires) for n, url in enumerate(urls))
    detail = {"prediction": seen.get("id"), "gpu_seconds": predict_time(seen)}
    if seen.get("data_removed"):
        raise expired(detail)
    raise error(
        Code.OUTPUT_MISSING,
        "Replicate says that the job succeeded, and names no file: it ran and was billed",
        detail=detail,
    )


def expired(detail: dict[str, Any]) -> PennyreelError:
    """Return the error for a result that is gone; the job itself was fine, and paid for."""
    return error(
        Code.RESULT_EXPIRED,
        "Replicate has removed the result: it keeps files for an hour after the job's end",
        hint="Fetch results within the hour. Running it again is billed again; the same seed "
        "gives the same clip.",
        detail=detail,
    )


def _artifact(url: str, number: int, expires: datetime | None) -> Artifact:
    if url.startswith("data:"):
        head, _, data = url.partition(",")
        ending = _ENDINGS.get(head.removeprefix("data:").partition(";")[0], "bin")
        name, place = f"output.{ending}", {"data": data}
    else:
        name = plain_name(unquote(PurePosixPath(urlsplit(url).path).name))
        place = {"url": url}
    if number:
        stem, dot, ending = name.rpartition(".")
        name = f"{stem}-{number + 1}.{ending}" if dot else f"{name}-{number + 1}"
    kind, mime = mime_of(name)
    return Artifact(
        name=name, kind=kind, mime=mime, bytes=0, sha256="", url_expires=expires, **place
    )


def _timings(seen: Mapping[str, Any]) -> dict[str, float]:
    run, total = predict_time(seen), _seconds(seen, "total_time")
    timings = {} if run is None else {"platform_execute": run}
    if run is not None and total is not None:
        timings["platform_queue"] = max(0.0, total - run)
    return timings


def _seconds(seen: Mapping[str, Any], name: str) -> float | None:
    value = (seen.get("metrics") or {}).get(name)
    return float(value) if isinstance(value, (int, float)) and value >= 0 else None


def _seed(seen: Mapping[str, Any]) -> int | None:
    seed = (seen.get("input") or {}).get("seed")
    if isinstance(seed, int):
        return seed
    found = _SEED.search(str(seen.get("logs") or ""))
    return int(found[1]) if found else None


def _moment(text: object) -> datetime | None:
    """Read a time as Replicate writes it; Python 3.10 reads no Z and no odd fractions."""
    if not isinstance(text, str):
        return None
    found = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?\d*(?:Z|\+00:00)$", text)
    if not found:
        return None
    return datetime.fromisoformat(f"{found[1]}.{(found[2] or '0').ljust(6, '0')}+00:00")
