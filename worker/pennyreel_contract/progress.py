"""Progress as it crosses the wire. It decorates: a client never decides by it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

MAX_WORD = 200
"""Characters taken of a stage's or a node's name."""

MAX_PREVIEW = 4 << 20
"""Characters taken of a preview; ComfyUI's have some 100,000."""


class Progress(BaseModel):
    """One step of a job. `percent` never falls within an attempt."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    percent: float = Field(ge=0, le=100, description="of the whole job")
    stage: str = Field(description="queued, preparing, executing, delivering or done; maybe newer")
    node: str | None = Field(default=None, description="id of the node at work")
    node_class: str | None = None
    step: int | None = None
    steps: int | None = None
    eta_s: float | None = Field(default=None, ge=0)
    preview: str | None = Field(default=None, repr=False, description="a data: URI, small")

    def wire(self) -> dict[str, Any]:
        """Return the JSON object to send; its key `pennyreel_progress` names it as ours."""
        return {"pennyreel_progress": self.model_dump(mode="json", exclude_none=True)}


def parse_progress(body: object) -> Progress | None:
    """Read a progress update, or return None when it is not one of ours."""
    if not isinstance(body, dict):
        return None
    try:
        found = Progress.model_validate(body.get("pennyreel_progress"))
    except ValidationError:
        return None
    cut = {n: v[:MAX_WORD] for n in ("stage", "node", "node_class") if (v := getattr(found, n))}
    large = len(found.preview or "") > MAX_PREVIEW
    return found.model_copy(update={**cut, "preview": None if large else found.preview})
