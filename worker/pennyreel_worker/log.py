"""The worker's log: a line an event, as text or JSON, with the job's id; never a secret.

Secrets are hidden by their values, wherever they come from: known ones are replaced in every line
of ours and of ComfyUI's, however they are escaped there, and of each URL the query goes, too.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from types import TracebackType
from typing import Any, TextIO

from pennyreel_contract import Code, PennyreelError, error
from pennyreel_worker.settings import Settings
from pennyreel_worker.whose import NameJob, job_on_gpu

log = logging.getLogger("pennyreel_worker")

HIDDEN = "***"
SHORTEST = 4
"""A value of fewer characters is no secret, and to hide it would hide the log."""

# Lengths are limited, since ComfyUI's lines are a stranger's: no line may take seconds.
_SCHEME = r"\b[a-z][a-z0-9+.-]{0,15}://"
_USER = re.compile(rf"({_SCHEME})[^\s/@\"'<>]{{0,512}}@", re.IGNORECASE)
_QUERY = re.compile(rf"({_SCHEME}[^\s?\"'<>]{{0,1024}}\?)[^\s\"'<>]+", re.IGNORECASE)
_PATH_QUERY = re.compile(
    r"([?&](?:X-Amz-[\w-]+|Signature|token|api_key|key)=)[^\s&\"'<>]+", re.IGNORECASE
)

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Redactor:
    """Replaces known values in text. Thread-safe; a value may be added more than once."""

    def __init__(self) -> None:
        """Know no value."""
        self._known: Counter[str] = Counter()
        self._pattern: re.Pattern[str] | None = None
        self._lock = threading.Lock()

    def add(self, secrets: Iterable[str | None]) -> None:
        """Hide these from now on; empty and very short ones are passed over."""
        self._change(secrets, 1)

    def remove(self, secrets: Iterable[str | None]) -> None:
        """Take them back, as often as they were added."""
        self._change(secrets, -1)

    @contextlib.contextmanager
    def hiding(self, secrets: Iterable[str | None]) -> Iterator[None]:
        """Hide these while the context lasts."""
        held = list(secrets)
        self.add(held)
        try:
            yield
        finally:
            self.remove(held)

    def clean(self, text: str) -> str:
        """Return the text without secrets, and without the queries and passwords of URLs."""
        pattern = self._pattern
        if pattern is not None:
            text = pattern.sub(HIDDEN, text)
        if "?" in text or "@" in text:
            text = _QUERY.sub(rf"\1{HIDDEN}", _USER.sub(rf"\1{HIDDEN}@", text))
            text = _PATH_QUERY.sub(rf"\1{HIDDEN}", text)
        return text

    def _change(self, secrets: Iterable[str | None], by: int) -> None:
        with self._lock:
            for value in secrets:
                # A secret of several lines, such as a PEM key, is printed line by line.
                for part in {value or "", *(value or "").splitlines()}:
                    if len(part.strip()) >= SHORTEST:
                        self._known[part] += by
            self._known = +self._known
            longest_first = sorted(self._known, key=len, reverse=True)
            self._pattern = (
                re.compile("|".join(map(_spelled, longest_first))) if longest_first else None
            )


redactor = Redactor()
"""The process's own: every line of the log passes through it."""

_attempts: dict[str, str] = {}


def secrets_of(settings: Settings) -> list[str | None]:
    """Return the operator's secrets, to be hidden as long as the process lives."""
    bucket = settings.bucket
    return [
        bucket.secret_access_key if bucket else None,
        settings.comfy_org_api_key,
        settings.hf_token,
        settings.civitai_token,
    ]


@contextlib.contextmanager
def about(job_id: str, attempt_id: str, secrets: Iterable[str | None] = ()) -> Iterator[None]:
    """Name the attempt in each line that has this job's id, and hide the job's own secrets."""
    _attempts[job_id] = attempt_id
    try:
        with redactor.hiding(secrets):
            yield
    finally:
        _attempts.pop(job_id, None)


class TextFormat(logging.Formatter):
    """`pennyreel | level [job] message`, and the traceback below it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without secrets."""
        job = getattr(record, "job", None)
        where = f" [{job}]" if job else ""
        text = f"pennyreel | {record.levelname.lower()}{where} {_one_line(record.getMessage())}"
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        return redactor.clean(text)


class JsonFormat(logging.Formatter):
    """One JSON object a line: time, level, message, worker, and job, attempt and more if known."""

    def __init__(self, worker_id: str) -> None:
        """Keep the worker's id, which is in every line."""
        super().__init__("%(message)s")
        self._worker_id = worker_id

    def format(self, record: logging.LogRecord) -> str:
        """Return the object, without secrets."""
        body: dict[str, Any] = {
            "time": _iso(record.created),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "worker": self._worker_id,
        }
        body |= {k: v for k, v in vars(record).items() if k not in _STANDARD and v is not None}
        body |= {**_ids(body.get("job")), **body}
        if record.exc_info:
            body["exception"] = self.formatException(record.exc_info)
        return json.dumps(cleaned(body), ensure_ascii=False, default=_text)


def _ids(job: object) -> dict[str, str]:
    """Return what names a job in a JSON line; `requestId` is what RunPod's SDK calls it there."""
    if job is None:
        return {}
    attempt = _attempts.get(str(job))
    ids = {"job": str(job), "requestId": str(job)}
    return {**ids, "attempt": attempt} if attempt else ids


def set_up(
    level: int = logging.INFO, *, log_format: str = "text", worker_id: str = "local"
) -> None:
    """Send our own log to stderr, and warnings of libraries; the SDK has a logger of its own.

    May be called again: first with what is known before the settings are read.
    """
    global _json_worker  # noqa: PLW0603 - one log a process
    as_json = log_format == "json"
    _json_worker = worker_id if as_json else None
    handler = logging.StreamHandler(_stderr())
    handler.addFilter(NameJob())
    handler.setFormatter(JsonFormat(worker_id) if as_json else TextFormat("%(message)s"))
    ours = logging.getLogger("pennyreel_worker")
    ours.handlers[:] = [handler]
    ours.setLevel(level)
    ours.propagate = False
    # Otherwise they would go to stderr as they are: urllib3 names whole URLs in its warnings.
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)


def catch_all() -> None:
    """Log what no thread of ours has caught: Python would print it as it is."""

    def caught(
        kind: type[BaseException], value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if value is not None and not issubclass(kind, (KeyboardInterrupt, SystemExit)):
            log.critical("uncaught %s", kind.__name__, exc_info=(kind, value, trace))

    sys.excepthook = caught
    threading.excepthook = lambda args: caught(args.exc_type, args.exc_value, args.exc_traceback)


def _stderr() -> TextIO:
    """Return where the log goes; what stands there for printed lines would send them back."""
    stream: TextIO = getattr(sys.stderr, "under", sys.stderr)
    return stream


_json_worker: str | None = None


def comfy_line(line: str) -> None:
    """Print one line of ComfyUI's output among ours; of a progress bar's, the last state."""
    line = _one_line(redactor.clean(line.rpartition("\r")[2]))
    if _json_worker is None:
        _stderr().write(f"comfyui | {line}\n")
        return
    if not line:
        return
    body = {
        "time": _iso(datetime.now(timezone.utc).timestamp()),
        "level": "info",
        "message": line,
        "worker": _json_worker,
        "source": "comfyui",
        **_ids(job_on_gpu()),
    }
    _stderr().write(json.dumps(body, ensure_ascii=False) + "\n")


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


_ESCAPE = r"\\{1,16}"
"""A string in a string in a string in a string: each doubles the backslashes."""


def _spelled(secret: str) -> str:
    """Return a pattern for a value as it is, in a URL, in JSON, in a repr, or in one in another."""
    return "".join(map(_letter, secret))


def _letter(letter: str) -> str:
    ways = {re.escape(letter)}
    # JSON may write any character as its UTF-16 units, and a string within a string doubles the
    # backslashes; a URL writes UTF-8, and within another one each % as %25.
    units = letter.encode("utf-16-be", "surrogatepass").hex()
    ways.add("".join(rf"{_ESCAPE}u(?i:{units[i : i + 4]})" for i in range(0, len(units), 4)))
    octets = letter.encode("utf-8", "surrogatepass").hex()
    pairs = [octets[i : i + 2] for i in range(0, len(octets), 2)]
    ways.add("".join(rf"%(?:25){{0,4}}(?i:{pair})" for pair in pairs))
    ways.add("".join(rf"{_ESCAPE}x(?i:{pair})" for pair in pairs))
    if letter == " ":
        ways.add(r"\+")
    if letter in "\b\f\n\r\t":
        ways.add(_ESCAPE + dict(zip("\b\f\n\r\t", "bfnrt", strict=True))[letter])
    if not letter.isalnum():  # \" and \/ and \\
        ways.add(_ESCAPE + re.escape(letter))
    return "(?:" + "|".join(sorted(ways, key=len, reverse=True)) + ")"


def cleaned(value: Any) -> Any:
    """Return JSON-like data without secrets in its texts."""
    if isinstance(value, str):
        return redactor.clean(value)
    if isinstance(value, dict):
        return {redactor.clean(str(k)): cleaned(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [cleaned(v) for v in value]
    return value


def _one_line(text: str) -> str:
    """Escape control characters: a node's name is not to write lines, or the terminal, of ours."""
    return "".join(
        c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in text
    )


def _text(value: object) -> str:
    return redactor.clean(str(value))


def _iso(moment: float) -> str:
    text = datetime.fromtimestamp(moment, timezone.utc).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
