"""One thing that is wrong with a graph, and the error that all of them make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pennyreel_contract import Code, PennyreelError, error

SHOWN = 6  # findings in an error's message
CARRIED = 50  # findings in an error's detail
_LONGEST = 300  # characters of a value

# The first of these that a refusing finding has is the code of the whole refusal.
_ORDER = (
    Code.UI_FORMAT,
    Code.NODE_REFUSED,
    Code.UNKNOWN_NODE,
    Code.MISSING_MODEL,
    Code.NO_OUTPUTS,
    Code.BAD_INPUT,
    Code.BAD_WORKFLOW,
)


@dataclass(frozen=True)
class Finding:
    """What is wrong at one place of a graph.

    Attributes:
        code: the code that this finding alone would be refused with.
        node: the node's id; "" where it is about the whole graph.
        class_type: the node's class.
        input: the input's name, where it is about one.
        type: ComfyUI's own name for it where it has one, such as "value_not_in_list".
        message: what is wrong, without the place.
        value: what the graph has there, cut short.
        suggestion: what to do or to write instead; "" where nothing is known.
        refuses: whether ComfyUI certainly refuses the graph for it. Else it is a warning.

    """

    code: Code
    node: str
    class_type: str
    input: str | None
    type: str
    message: str
    value: str | None = None
    suggestion: str = ""
    refuses: bool = True

    def sentence(self) -> str:
        """Place, problem and suggestion in one line."""
        where = f"node {self.node} ({self.class_type})" if self.node else ""
        if where and self.input:
            where += f".{self.input}"
        text = f"{where}: {self.message}" if where else self.message
        return f"{text}. {self.suggestion}" if self.suggestion else text

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON, with the keys of `rejections.node_findings` and more."""
        return {**asdict(self), "code": self.code.value}


def shown(value: object) -> str:
    """Return a value as text that fits into a message."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def sentences(findings: Sequence[Finding]) -> list[str]:
    """Return each finding as one line."""
    return [finding.sentence() for finding in findings]


def refusal(findings: Sequence[Finding]) -> PennyreelError | None:
    """Return the error to refuse a graph with, or None where nothing in it refuses it.

    Its code is the gravest one, its message tells the first few, its detail has all: `findings` are
    those that refuse, `warnings` the others.
    """
    grave = [finding for finding in findings if finding.refuses]
    if not grave:
        return None
    grave.sort(key=lambda finding: _ORDER.index(finding.code))
    others = [finding for finding in findings if not finding.refuses]
    text = "; ".join(sentences(grave[:SHOWN]))
    if len(grave) > SHOWN:
        text += f"; and {len(grave) - SHOWN} more"
    return error(
        grave[0].code,
        text,
        detail={
            "findings": [finding.as_dict() for finding in grave[:CARRIED]],
            "warnings": [finding.as_dict() for finding in others[:CARRIED]],
            "count": len(grave),
        },
    )
