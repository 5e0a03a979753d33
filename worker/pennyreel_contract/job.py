"""Requests: what a client may ask of a worker. Strict: a field we do not know is refused."""

from __future__ import annotations

import json
import re
import uuid
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)

from pennyreel_contract.errors import Code, error
from pennyreel_contract.version import CONTRACT, CONTRACT_MIN

MAX_METADATA_BYTES = 16_384
MAX_INPUTS = 256
MAX_LEVELS = 100
"""Of nesting: pydantic writes 255, and a graph has about five."""

_ATTEMPT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{7,63}")
_NAME = re.compile(r"[^/\\\x00-\x1f\x7f]{1,200}")
_URL = re.compile(r"https?://[^/\s\x00-\x1f]+[^\s\x00-\x1f]*", re.IGNORECASE)
_S3 = re.compile(r"s3://[^/\s]+/.+")

Kind = Literal["image", "video", "audio", "model3d", "text", "file"]
Delivery = Literal["auto", "inline", "s3"]


def _attempt(value: str) -> str:
    if not _ATTEMPT.fullmatch(value):
        raise ValueError("8 to 64 letters, digits, '_' or '-', beginning with a letter or digit")
    return value


def _file_name(value: str) -> str:
    # Bytes, since that is what file systems count: 255 of them, less what we may add.
    size = len(_sendable(value).encode())
    if not _NAME.fullmatch(value) or size > 200 or value in {".", ".."}:
        raise ValueError("a plain file name of at most 200 bytes, without a folder")
    return value


def _url(value: str) -> str:
    if not _URL.fullmatch(value):
        raise ValueError("must begin with http:// or https:// and be without white space")
    return value


def _no_steps(value: str) -> str:
    if ".." in re.split(r"[/\\]", value) or value.startswith(("/", "\\")) or "\0" in value:
        raise ValueError("must stay in its folder")
    return value


def _sendable(value: Any) -> Any:
    """Refuse what JSON on the wire cannot carry: it would be lost on its way back."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a text in it is not valid Unicode (a lone surrogate)") from None
    except (TypeError, ValueError, RecursionError):
        raise ValueError("not JSON: NaN, an infinity, or too many levels") from None
    if _deeper(value, MAX_LEVELS):
        raise ValueError(f"more than {MAX_LEVELS} levels")
    return value


def _deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper(one, levels - 1) for one in inner)


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("not valid Unicode (a lone surrogate)") from None
    return value


AttemptId = Annotated[str, AfterValidator(_attempt)]
FileName = Annotated[str, AfterValidator(_file_name)]
Url = Annotated[str, AfterValidator(_url)]
Text = Annotated[str, AfterValidator(_text)]
Graph = Annotated[dict[str, Any], AfterValidator(_sendable)]
JsonObject = Annotated[dict[str, JsonValue], AfterValidator(_sendable)]


def new_attempt_id() -> str:
    """Mint an attempt id. Persist it before the call that carries it."""
    return uuid.uuid4().hex


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class InputFile(_Strict):
    """A file that the graph reads by `name`, from exactly one source."""

    name: FileName = Field(description="as the graph names it, for example in LoadImage.image")
    data: Text | None = Field(default=None, description="base64, or a data: URI", repr=False)
    url: Url | None = Field(default=None, description="http(s) URL", repr=False)
    s3: Text | None = Field(default=None, description="s3://bucket/key in the worker's store")
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _one_source(self) -> InputFile:
        given = [n for n in ("data", "url", "s3") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of data, url, s3 (got {', '.join(given) or 'none'})"
            )
        if self.s3 is not None and not _S3.fullmatch(self.s3):
            raise ValueError("s3 must look like s3://bucket/key")
        return self


class Outputs(_Strict):
    """Which outputs are wanted, and how they are to be delivered."""

    nodes: tuple[Text, ...] | None = Field(
        default=None, min_length=1, description="node ids; None = all"
    )
    kinds: tuple[Kind, ...] | None = Field(default=None, min_length=1, description="None = all")
    temp: bool = Field(default=False, strict=True, description="also files of previews (type temp)")
    delivery: Delivery = Field(
        default="auto",
        description="inline = in the result; s3 = a URL; auto = s3 where the worker has a bucket",
    )
    url_ttl_s: int = Field(
        default=86_400, ge=60, le=604_800, strict=True, description="of presigned URLs"
    )


class ModelNeed(_Strict):
    """A model file that the graph needs, so that its absence is told before the run."""

    folder: Annotated[str, AfterValidator(_no_steps)] = Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]{0,63}$", description="such as checkpoints"
    )
    name: Annotated[str, AfterValidator(_no_steps)] = Field(
        min_length=1, max_length=255, description="as the graph names it; may have subfolders"
    )
    url: Url | None = None
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")


class JobRequest(_Strict):
    """Run one graph. Exactly one of `workflow` (API format) and `template` is given."""

    contract: int = CONTRACT
    op: Literal["run"] = "run"
    attempt_id: AttemptId = Field(description="minted by the client and persisted before the call")
    workflow: Graph | None = Field(
        default=None, repr=False, description="checked as a graph by whoever runs it"
    )
    template: str | None = Field(default=None, max_length=100)
    parameters: JsonObject = Field(default_factory=dict)
    inputs: tuple[InputFile, ...] = Field(default=(), max_length=MAX_INPUTS)
    outputs: Outputs = Outputs()
    models: tuple[ModelNeed, ...] = Field(default=(), max_length=64)
    timeout_s: float | None = Field(
        default=None, gt=0, le=604_800, strict=True, description="of the whole job"
    )
    seed: int | None = Field(
        default=None, ge=0, lt=2**64, strict=True, description="written to every seed"
    )
    preview: bool = Field(
        default=False, strict=True, description="send preview thumbnails with progress"
    )
    metadata: JsonObject = Field(default_factory=dict, description="echoed back")

    @model_validator(mode="after")
    def _check(self) -> JobRequest:
        if (self.workflow is None) == (self.template is None):
            raise ValueError("give exactly one of workflow and template")
        if self.workflow is not None and self.parameters:
            raise ValueError("parameters belong to a template; patch the workflow itself")
        if len(json.dumps(self.metadata, ensure_ascii=False).encode()) > MAX_METADATA_BYTES:
            raise ValueError(f"metadata is over {MAX_METADATA_BYTES} bytes of JSON")
        names = [f.name for f in self.inputs]
        if len(set(names)) != len(names):
            raise ValueError("two inputs have the same name")
        return self

    def wire(self) -> dict[str, Any]:
        """Return the JSON object to send, without fields left at their defaults."""
        body: dict[str, Any] = self.model_dump(mode="json", exclude_defaults=True)
        return {**body, "contract": self.contract, "op": self.op}


class InfoRequest(_Strict):
    """Ask what a worker is: versions, GPU, models, nodes, templates."""

    contract: int = CONTRACT
    op: Literal["info"] = "info"


def parse_request(body: object) -> JobRequest | InfoRequest:
    """Read a request strictly.

    Raises:
        BadRequest: `contract_unsupported` or `bad_request`, naming every wrong field.

    """
    if not isinstance(body, dict):
        raise error(Code.BAD_REQUEST, f"input must be an object, not {type(body).__name__}")
    version = body.get("contract", CONTRACT)
    if isinstance(version, bool) or not isinstance(version, int):
        raise error(Code.BAD_REQUEST, "contract: must be an integer")
    if not CONTRACT_MIN <= version <= CONTRACT:
        raise error(
            Code.CONTRACT_UNSUPPORTED,
            f"contract {version} is not spoken here: {CONTRACT_MIN} to {CONTRACT} are",
            detail={"min": CONTRACT_MIN, "max": CONTRACT},
        )
    operation = body.get("op", "run")
    if not isinstance(operation, str):
        raise error(Code.BAD_REQUEST, "op: must be 'run' or 'info'")
    try:
        if operation == "info":
            return InfoRequest.model_validate(body)
        if operation == "run":
            return JobRequest.model_validate(body)
    except RecursionError:  # in saying what is wrong with it
        raise error(Code.BAD_REQUEST, "the request has too many levels") from None
    except ValidationError as problem:
        found = [_problem(e["loc"], e["msg"]) for e in problem.errors(include_input=False)]
        raise error(
            Code.BAD_REQUEST, "; ".join(found[:8]), detail={"problems": found[:50]}
        ) from None
    raise error(Code.BAD_REQUEST, f"op: {operation!r} is unknown; use 'run' or 'info'")


def _problem(location: tuple[int | str, ...], message: str) -> str:
    where = ".".join(str(part) for part in location)
    message = message.removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
