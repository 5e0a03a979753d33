"""Results: what a worker answers. Read leniently, so that a newer worker serves an older client."""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from pennyreel_contract.errors import MAX_MESSAGE, Code, PennyreelError, error
from pennyreel_contract.version import CONTRACT, CONTRACT_MIN

MAX_LISTED = 10_000
"""Files, and nodes, taken of one result."""

MAX_WARNINGS = 1_000
"""Warnings, and timings, taken of one; each as long as an error's message."""

MAX_WORD = 500
"""Characters taken of a file's name, kind, type or node."""


class _Lenient(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    ADDED: ClassVar[frozenset[str]] = frozenset()
    """Fields that came after the first release: not sent while empty, so old forms stay as is."""

    def wire(self) -> dict[str, Any]:
        """Return the JSON object to send."""
        body = self.model_dump(mode="json", exclude_none=True)
        return {name: value for name, value in body.items() if value or name not in self.ADDED}


_Read = TypeVar("_Read", bound=_Lenient)


class Artifact(_Lenient):
    """One thing that a job made. `data` (base64) or `url` carries it; `s3` says where it lies.

    A store that signs no URLs (a RunPod volume) leaves `s3` alone.
    """

    name: str = Field(description="a plain file name, unique within the result")
    kind: str = Field(description="image, video, audio, model3d, text or file")
    mime: str
    bytes: int = Field(ge=0)
    sha256: str
    node: str = Field(default="", description="id of the node that made it")
    temp: bool = False
    data: str | None = Field(default=None, repr=False, description="base64")
    url: str | None = Field(default=None, repr=False)
    url_expires: datetime | None = None
    s3: str | None = Field(default=None, description="s3://bucket/key")


class Gpu(_Lenient):
    """The device that ran the job, and for how long."""

    name: str
    type: str = Field(default="", description="cuda, rocm, mps, cpu …")
    seconds: float = Field(default=0, ge=0, description="execution time on it")
    vram_bytes: int | None = None
    peak_vram_bytes: int | None = Field(
        default=None, ge=0, description="most memory in use at once while the job ran, by anybody"
    )


class NodeTiming(_Lenient):
    """How long one node of the graph ran. Nodes that were cached have none."""

    node: str
    node_class: str = ""
    seconds: float = Field(ge=0)


class Result(_Lenient):
    """The outcome of a job that succeeded."""

    ADDED: ClassVar[frozenset[str]] = frozenset({"nodes"})

    contract: int = CONTRACT
    attempt_id: str
    artifacts: tuple[Artifact, ...] = ()
    timings: dict[str, float] = Field(
        default_factory=dict,
        description="seconds per stage: prepare, models, queue, execute, deliver, total",
    )
    nodes: tuple[NodeTiming, ...] = Field(
        default=(), description="the longest first; after a hundred of them `*`: the rest together"
    )
    gpu: Gpu | None = None
    cost_microusd: int | None = Field(
        default=None, ge=0, description="of gpu.seconds at the operator's price, rounded up"
    )
    seed: int | None = None
    warnings: tuple[str, ...] = ()
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    replayed: bool = Field(default=False, description="a stored result: nothing was rendered")
    worker: dict[str, str] = Field(default_factory=dict, description="versions")


class Info(_Lenient):
    """What a worker is and has."""

    ADDED: ClassVar[frozenset[str]] = frozenset({"packs", "limits", "features"})

    contract_min: int = CONTRACT_MIN
    contract_max: int = CONTRACT
    versions: dict[str, str] = Field(default_factory=dict)
    gpu: Gpu | None = None
    models: dict[str, tuple[str, ...]] = Field(default_factory=dict, description="by folder")
    nodes: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    storage: str = Field(default="inline", description="inline or s3")
    worker_id: str | None = None
    uptime_s: float | None = Field(default=None, ge=0)
    packs: dict[str, str] = Field(default_factory=dict, description="node pack to version")
    limits: dict[str, int | float] = Field(
        default_factory=dict, description="sizes end in _bytes, times in _s"
    )
    features: tuple[str, ...] = Field(default=(), description="what it can do; maybe newer names")


def parse_result(body: object) -> Result:
    """Read a worker's result.

    Raises:
        JobFailed: `internal`, when it is not a result at all; `result_refused`, when it has more
            files than are taken.

    """
    found = _read(Result, "result", body)
    if len(found.artifacts) > MAX_LISTED:
        raise error(
            Code.RESULT_REFUSED,
            f"the worker's result names {len(found.artifacts)} files; {MAX_LISTED} are taken",
            hint="The job ran: look for its files in the worker's storage.",
        )
    return found.model_copy(
        update={
            "artifacts": tuple(_cut(a) for a in found.artifacts),
            "warnings": tuple(w[:MAX_MESSAGE] for w in found.warnings[:MAX_WARNINGS]),
            "timings": dict(islice(found.timings.items(), MAX_WARNINGS)),
            "nodes": found.nodes[:MAX_LISTED],
        }
    )


def _cut(one: Artifact) -> Artifact:
    words = {name: getattr(one, name) for name in ("name", "kind", "mime", "sha256", "node")}
    long = {name: word[:MAX_WORD] for name, word in words.items() if len(word) > MAX_WORD}
    return one.model_copy(update=long) if long else one


def parse_info(body: object) -> Info:
    """Read a worker's answer to an info request.

    Raises:
        JobFailed: `internal`, when it is no such answer.

    """
    if not isinstance(body, dict) or not {"contract_min", "contract_max"} & body.keys():
        # Every field of Info has a default: any object at all would pass for one.
        raise _no_answer("info", "contract_min: missing")
    return _read(Info, "info", body)


def _read(model: type[_Read], what: str, body: object) -> _Read:
    try:
        return model.model_validate(body)
    except ValidationError as problem:
        first = problem.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _no_answer(what, f"{where or 'output'}: {first['msg']}") from None


def _no_answer(what: str, why: str) -> PennyreelError:
    return error(
        Code.INTERNAL,
        f"the worker's answer is not a pennyreel {what} ({why})",
        hint="Check that the endpoint runs the pennyreel worker image.",
    )
