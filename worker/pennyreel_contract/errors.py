"""Errors as they cross the wire, and the exception that carries one.

Every error has a stable code, a sentence for a person, a hint (what to do next), and says whether
the same request may succeed if sent again. RunPod's `error` field is a string: what we put into
it is `ErrorInfo.encode()`, a JSON object whose key `pennyreel_error` names it as ours.
`ErrorInfo.decode()` reads that, the SDK's own traceback JSON, and any other text.

    PennyreelError          everything this project raises on purpose; has .info
      BadRequest            mend the request: sending it again cannot help
      SetupNeeded           install, start or configure something first
      Unavailable           nothing was accepted: try later or elsewhere
      JobFailed             the job ran and failed; .info.retryable says if a retry may help
      JobTimeout            its deadline passed; it was cancelled
      JobCancelled          somebody cancelled it
      OutcomeUnknown        it was sent and no answer came: look it up before sending it again
"""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from pennyreel_contract.steering import harmless_text

MAX_BYTES = 20_000
"""What an encoded error weighs at most, in UTF-8: platforms limit it. Beyond it, it is cut."""

MAX_MESSAGE = 5_000
"""Characters taken of a message that another program wrote."""


class Code(str, Enum):
    """Stable error codes. New ones may be added; none changes its meaning."""

    # The request.
    BAD_REQUEST = "bad_request"
    BAD_INPUT = "bad_input"
    BAD_TEMPLATE = "bad_template"
    BAD_WORKFLOW = "bad_workflow"
    CONTRACT_UNSUPPORTED = "contract_unsupported"
    ATTEMPT_CONFLICT = "attempt_conflict"
    MISSING_MODEL = "missing_model"
    MODEL_REFUSED = "model_refused"
    NODE_REFUSED = "node_refused"
    NO_OUTPUTS = "no_outputs"
    REQUEST_TOO_LARGE = "request_too_large"
    UI_FORMAT = "ui_format"
    UNKNOWN_NODE = "unknown_node"
    # Inputs and outputs.
    INPUT_TOO_LARGE = "input_too_large"
    INPUT_UNREACHABLE = "input_unreachable"
    ADDRESS_REFUSED = "address_refused"
    OUTPUT_MISSING = "output_missing"
    RESULT_TOO_LARGE = "result_too_large"
    RESULT_EXPIRED = "result_expired"
    STORAGE_FAILED = "storage_failed"
    MODEL_DOWNLOAD_FAILED = "model_download_failed"
    RESULT_REFUSED = "result_refused"
    # The run.
    CANCELLED = "cancelled"
    CONTENT_FILTERED = "content_filtered"
    EXECUTION_FAILED = "execution_failed"
    OUT_OF_MEMORY = "out_of_memory"
    DISK_FULL = "disk_full"
    STALLED = "stalled"
    TIMEOUT = "timeout"
    WORKER_STOPPING = "worker_stopping"
    # The servers.
    COMFY_CRASHED = "comfy_crashed"
    COMFY_START_FAILED = "comfy_start_failed"
    COMFY_UNAVAILABLE = "comfy_unavailable"
    BACKEND_UNAVAILABLE = "backend_unavailable"
    RATE_LIMITED = "rate_limited"
    UNAUTHORIZED = "unauthorized"
    UNKNOWN_OUTCOME = "unknown_outcome"
    JOB_GONE = "job_gone"
    # What the user allows.
    CONSENT_REQUIRED = "consent_required"
    # Money.
    BUDGET_EXCEEDED = "budget_exceeded"
    LEDGER_UNUSABLE = "ledger_unusable"
    # This machine.
    INSTALL_FAILED = "install_failed"
    NOT_CONFIGURED = "not_configured"
    NOT_INSTALLED = "not_installed"
    INTERNAL = "internal"


class _Entry(NamedTuple):
    kind: str
    retryable: bool
    hint: str


_TABLE: dict[Code, _Entry] = {
    Code.BAD_REQUEST: _Entry("request", False, "Correct the named field and send it again."),
    Code.BAD_INPUT: _Entry("request", False, "Check the input file's name and content."),
    Code.BAD_TEMPLATE: _Entry("request", False, "Check the template's name and parameters."),
    Code.BAD_WORKFLOW: _Entry("request", False, "Correct the named nodes and send it again."),
    Code.CONTRACT_UNSUPPORTED: _Entry(
        "request", False, "Update the older side: the client or the worker image."
    ),
    Code.ATTEMPT_CONFLICT: _Entry(
        "request", False, "Mint a new attempt_id for a request that differs."
    ),
    Code.MISSING_MODEL: _Entry(
        "request", False, "Put the model into ComfyUI's models folder, or name one it has."
    ),
    Code.MODEL_REFUSED: _Entry(
        "request", False, "Give its sha256, or a host that the worker's operator allows."
    ),
    Code.NODE_REFUSED: _Entry(
        "request", False, "Pass files as inputs instead, or have the operator allow this node."
    ),
    Code.NO_OUTPUTS: _Entry("request", False, "Add an output node, such as SaveImage."),
    Code.REQUEST_TOO_LARGE: _Entry(
        "request", False, "Pass large inputs by URL or s3:// instead of inside the request."
    ),
    Code.UI_FORMAT: _Entry(
        "request", False, "In ComfyUI use Workflow > Export (API) and send that file."
    ),
    Code.UNKNOWN_NODE: _Entry(
        "request", False, "Install the node pack that has it, or remove the node."
    ),
    Code.INPUT_TOO_LARGE: _Entry("request", False, "Use a smaller file or raise the limit."),
    Code.INPUT_UNREACHABLE: _Entry("failed", True, "Check that the URL answers from the worker."),
    Code.ADDRESS_REFUSED: _Entry(
        "request", False, "Use a public https URL, or have the operator allow this host."
    ),
    Code.OUTPUT_MISSING: _Entry("failed", True, "Run it again with another seed or prefix."),
    Code.RESULT_TOO_LARGE: _Entry(
        "failed", False, "Give the worker an S3 bucket (BUCKET_*), or make the output smaller."
    ),
    Code.RESULT_EXPIRED: _Entry(
        "failed", False, "Fetch results sooner, or give the worker an S3 bucket (BUCKET_*)."
    ),
    Code.STORAGE_FAILED: _Entry("failed", True, "Check the bucket, its credentials and its room."),
    Code.MODEL_DOWNLOAD_FAILED: _Entry(
        "failed", True, "Check the model's URL, its sha256 and the worker's disk."
    ),
    Code.RESULT_REFUSED: _Entry(
        "failed", False, "The job ran, and the platform refused its answer: read the worker's log."
    ),
    Code.CANCELLED: _Entry(
        "cancelled", True, "Submit it again only if it is known to have stopped."
    ),
    Code.CONTENT_FILTERED: _Entry(
        "failed", False, "Change the prompt or the image, or use a backend without such a filter."
    ),
    Code.EXECUTION_FAILED: _Entry("failed", False, "Correct the node named in the message."),
    Code.OUT_OF_MEMORY: _Entry(
        "failed", False, "Use fewer frames or a smaller size, or a GPU with more memory."
    ),
    Code.DISK_FULL: _Entry("failed", True, "Give the worker more disk, or make the job smaller."),
    Code.STALLED: _Entry("failed", True, "Try again; ComfyUI made no progress and was restarted."),
    Code.WORKER_STOPPING: _Entry("failed", True, "Send it again: another worker will take it."),
    Code.TIMEOUT: _Entry("timeout", True, "Allow more time, or make the job smaller."),
    Code.COMFY_CRASHED: _Entry("failed", True, "Try again; ComfyUI is being restarted."),
    Code.COMFY_START_FAILED: _Entry("setup", True, "Read the log's tail in this error's detail."),
    Code.COMFY_UNAVAILABLE: _Entry("unavailable", True, "Start ComfyUI: pennyreel comfyui start"),
    Code.BACKEND_UNAVAILABLE: _Entry("unavailable", True, "Try again later."),
    Code.RATE_LIMITED: _Entry("unavailable", True, "Wait a little and try again."),
    Code.UNAUTHORIZED: _Entry("setup", False, "Check the API key."),
    Code.UNKNOWN_OUTCOME: _Entry(
        "unknown", False, "Look the job up before you send it again: it may have run."
    ),
    Code.JOB_GONE: _Entry(
        "unknown", False, "Look at the vendor's bill before you send it again: it may have run."
    ),
    Code.CONSENT_REQUIRED: _Entry(
        "request", False, "Allow it by the flag that it names, or see the others: pennyreel quote"
    ),
    Code.BUDGET_EXCEEDED: _Entry(
        "unavailable", False, "Wait until it resets, or raise it: pennyreel budget set"
    ),
    Code.LEDGER_UNUSABLE: _Entry(
        "setup", True, "Check its disk or server, or name another in PENNYREEL_LEDGER_URL."
    ),
    Code.INSTALL_FAILED: _Entry("setup", True, "Run the installation again: it resumes."),
    Code.NOT_CONFIGURED: _Entry("setup", False, "Run: pennyreel doctor"),
    Code.NOT_INSTALLED: _Entry("setup", False, "Run: pennyreel comfyui install"),
    Code.INTERNAL: _Entry("failed", True, "Please report this with the log."),
}


def _utf8(text: str) -> str:
    """Replace lone surrogates: the platform's SDK would lose the whole answer over one.

    So, too, what steers a terminal: an error may quote anybody.
    """
    return harmless_text(text.encode("utf-8", "replace").decode())


_Text = Annotated[str, AfterValidator(_utf8)]


class ErrorInfo(BaseModel):
    """One error on the wire. Read leniently: fields a newer writer added are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    code: _Text = Field(description="a Code, or a newer worker's code that this version lacks")
    message: _Text = Field(description="what is wrong and where, for a person")
    hint: _Text = Field(default="", description="what to do next")
    retryable: bool = Field(default=False, description="may the same request succeed later?")
    detail: dict[str, JsonValue] = Field(default_factory=dict)

    @classmethod
    def make(
        cls,
        code: Code,
        message: str,
        *,
        hint: str | None = None,
        retryable: bool | None = None,
        detail: dict[str, Any] | None = None,
    ) -> ErrorInfo:
        """Build one, taking the hint and the retry verdict from the code where none is given."""
        entry = _TABLE[code]
        return cls(
            code=code.value,
            message=message,
            hint=entry.hint if hint is None else hint,
            retryable=entry.retryable if retryable is None else retryable,
            detail=_plain(detail or {}),
        )

    def encode(self) -> str:
        """Return the JSON string that goes into the platform's `error` field, never too long."""
        body = self.model_dump(mode="json")
        text = _json({"pennyreel_error": body})
        if len(text.encode()) > MAX_BYTES:
            body["detail"] = {"truncated": _cut(_json(body["detail"]), MAX_BYTES // 2)}
            body["message"] = _cut(body["message"], MAX_BYTES // 4)
            body["hint"] = _cut(body["hint"], MAX_BYTES // 10)
            body["code"] = _cut(body["code"], 200)
            text = _json({"pennyreel_error": body})
        return text

    @classmethod
    def decode(cls, error: object) -> ErrorInfo:
        """Read a platform's `error` field, whoever wrote it. Never raises."""
        body: object = error
        if isinstance(error, (str, bytes)):
            try:
                body = json.loads(error)
            except (ValueError, RecursionError):
                body = error
        if isinstance(body, dict):
            ours = body.get("pennyreel_error")
            if not isinstance(ours, dict):
                return _foreign(body)
            try:
                return _bounded(cls.model_validate(ours))
            except ValidationError:
                return _foreign(ours)
        text = "" if error is None else str(error)[:MAX_MESSAGE].strip()
        return cls.make(
            Code.EXECUTION_FAILED, text or "failed without a reason", hint=_FOREIGN_HINT
        )


_CODE = re.compile("[a-z][a-z0-9_]{0,63}")
_FOREIGN_HINT = "The worker raised this; its own log has the whole story."


def _json(body: object) -> str:
    return json.dumps(body, ensure_ascii=False)


def _plain(detail: dict[str, Any]) -> dict[str, Any]:
    """Return `detail` as JSON carries it: what it cannot carry becomes text."""
    text = json.dumps(detail, ensure_ascii=False, default=str)
    plain: dict[str, Any] = json.loads(_utf8(text), parse_constant=str)
    return plain


def _cut(text: str, most: int) -> str:
    """Shorten `text` until its JSON form has at most `most` bytes."""
    while (size := len(_json(text).encode())) > most:
        text = text[: max(0, min(len(text) * most // size, len(text) - 1))]
    return text


def _bounded(info: ErrorInfo) -> ErrorInfo:
    """Return an error as it came, or cut to what is taken: nobody else's worker knows limits."""
    detail, size = info.detail, len(_json(info.detail))
    if size > 5 * MAX_BYTES:
        detail = {"truncated": _json(detail)[:MAX_BYTES]}
    code = info.code if _CODE.fullmatch(info.code) else Code.EXECUTION_FAILED.value
    cut = {"message": info.message[:MAX_MESSAGE], "hint": info.hint[:MAX_MESSAGE]}
    return info.model_copy(update={**cut, "code": code, "detail": detail})


def _foreign(body: dict[str, Any]) -> ErrorInfo:
    """Read an error that another program wrote, such as the SDK's traceback JSON."""
    message = body.get("error_message") or body.get("message") or body.get("error")
    text = (str(message) if message else json.dumps(body, default=str))[:MAX_MESSAGE]
    kind = str(body.get("error_type") or "")[:200]
    return ErrorInfo.make(
        Code.EXECUTION_FAILED,
        f"{text} ({kind})" if kind else text,
        hint=_FOREIGN_HINT,
        detail={"worker_id": str(body["worker_id"])} if "worker_id" in body else {},
    )


class PennyreelError(Exception):
    """An error with a code, a hint and a retry verdict; the base of all that we raise."""

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        hint: str | None = None,
        retryable: bool | None = None,
        detail: dict[str, Any] | None = None,
    ) -> None:
        """Build from a code; see `ErrorInfo.make`."""
        super().__init__(message)
        self.info = ErrorInfo.make(code, message, hint=hint, retryable=retryable, detail=detail)

    @classmethod
    def from_info(cls, info: ErrorInfo) -> PennyreelError:
        """Return the exception class that `info.code` calls for, carrying `info` unchanged."""
        try:
            kind = _TABLE[Code(info.code)].kind
        except ValueError:
            kind = "failed"
        error = _CLASSES[kind].__new__(_CLASSES[kind])
        Exception.__init__(error, info.message)
        error.info = info
        return error

    def __reduce__(self) -> tuple[Any, ...]:
        return PennyreelError.from_info, (self.info,)

    @property
    def code(self) -> str:
        """The stable code."""
        return self.info.code

    @property
    def hint(self) -> str:
        """What to do next."""
        return self.info.hint

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed if it is sent again."""
        return self.info.retryable


class BadRequest(PennyreelError):
    """Mend the request: sending it again unchanged cannot help."""


class SetupNeeded(PennyreelError):
    """Install, start or configure something first."""


class Unavailable(PennyreelError):
    """Nothing was accepted: try later or elsewhere."""


class JobFailed(PennyreelError):
    """The job ran and failed."""


class JobTimeout(PennyreelError):
    """The job's deadline passed and it was cancelled."""


class JobCancelled(PennyreelError):
    """Somebody cancelled the job."""


class OutcomeUnknown(PennyreelError):
    """The job was sent and no answer came: look it up before sending it again."""


_CLASSES: dict[str, type[PennyreelError]] = {
    "request": BadRequest,
    "setup": SetupNeeded,
    "unavailable": Unavailable,
    "failed": JobFailed,
    "timeout": JobTimeout,
    "cancelled": JobCancelled,
    "unknown": OutcomeUnknown,
}


def error(
    code: Code,
    message: str,
    *,
    hint: str | None = None,
    retryable: bool | None = None,
    detail: dict[str, Any] | None = None,
) -> PennyreelError:
    """Return an exception of the class that the code calls for.

    Use it as `raise error(Code.BAD_INPUT, "…")`.
    """
    info = ErrorInfo.make(code, message, hint=hint, retryable=retryable, detail=detail)
    return PennyreelError.from_info(info)
