"""What ComfyUI says of a graph it refuses or a node that raised, in our errors' words.

Source: the bad_*.json and exec_error.json recordings; execution.py's validate_prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pennyreel_comfy.diagnose import CODES, Kind, classify, diagnose
from pennyreel_contract import Code, PennyreelError, error

MODEL_FILE = re.compile(r"\.(safetensors|sft|ckpt|pt|pth|bin|gguf|onnx)$", re.IGNORECASE)
_MISSING_CLASS = re.compile(r"node (.+?) (?:does not exist|not found)")
_NODE_ID = re.compile(r"#(\S+?)'?$")


_FILES = re.compile(r"dir|path|folder|file|image|video|audio|mask", re.IGNORECASE)
"""Inputs whose choices are files: a list of them would tell the names of other people's."""

_TOLD = {Kind.CORRUPT_MODEL, Kind.GPU_UNSUPPORTED}
"""Causes that the exception's own text hides from who does not know torch."""


def rejection(status: int, body: Any, graph: Mapping[str, Any]) -> PennyreelError:
    """Translate a refusal of POST /prompt."""
    if not isinstance(body, dict):
        if status == 500:  # what a graph of the wrong shape does to the server
            return error(
                Code.BAD_WORKFLOW,
                f"ComfyUI could not read this graph at all (it answered {status})",
                hint="Export it again with Workflow > Export (API).",
            )
        return error(Code.BAD_WORKFLOW, f"ComfyUI refuses the graph ({status}): {str(body)[:300]}")
    outer = body.get("error")
    if isinstance(outer, str):
        outer = {"message": outer}
    outer = _mapping(outer)
    kind = str(outer.get("type", ""))
    if kind == "prompt_no_outputs":
        return error(Code.NO_OUTPUTS, "the graph has no output node, so there is nothing to run")
    if _mapping(body.get("node_errors")):
        findings = node_findings(body["node_errors"], graph)
        return _from_findings(findings)
    message = str(outer.get("message") or "ComfyUI refuses the graph")
    missing = _MISSING_CLASS.search(message)
    node = _NODE_ID.search(str(outer.get("details", "")))
    detail = {"node": node.group(1)} if node else {}
    where = f"node {node.group(1)}: " if node else ""
    if missing:
        name = missing.group(1).strip("'\"")
        return error(
            Code.UNKNOWN_NODE,
            f"{where}this ComfyUI has no node class {name!r}",
            detail={**detail, "class_type": name},
        )
    return error(Code.BAD_WORKFLOW, where + message, detail=detail)


def node_findings(node_errors: Mapping[str, Any], graph: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List what is wrong: {node, class_type, input, type, message}."""
    found = []
    for node, raw in _mapping(node_errors).items():
        entry = _mapping(raw)
        class_type = entry.get("class_type") or _mapping(graph.get(node)).get("class_type", "?")
        for one in entry.get("errors") or [{}]:
            item = _mapping(one)
            extra = _mapping(item.get("extra_info"))
            kind = str(item.get("type", ""))
            details = str(item.get("details", ""))
            if kind == "exception_during_validation" and extra.get("exception_type") == "KeyError":
                message = f"links to node {details}, which is not in the graph"
            elif kind == "value_not_in_list":
                message = details[:500]
                if _FILES.search(str(extra.get("input_name", ""))):
                    message = f"{details.partition(' not in ')[0][:480]} is not in its list"
            else:
                message = ": ".join(t for t in (str(item.get("message", "")), details[:300]) if t)
            found.append(
                {
                    "node": node,
                    "class_type": class_type,
                    "input": extra.get("input_name"),
                    "type": kind,
                    "value": extra.get("received_value"),
                    "message": message,
                }
            )
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def describe(finding: Mapping[str, Any]) -> str:
    """One finding as a sentence's part."""
    where = f"node {finding['node']} ({finding['class_type']})"
    if finding.get("input"):
        where += f".{finding['input']}"
    return f"{where}: {finding['message']}"


def _from_findings(findings: list[dict[str, Any]]) -> PennyreelError:
    code = Code.BAD_WORKFLOW
    if findings and all(_missing_model(f) for f in findings):
        code = Code.MISSING_MODEL
    elif findings and all("Invalid image file" in f["message"] for f in findings):
        code = Code.BAD_INPUT
    return error(
        code, "; ".join(describe(f) for f in findings[:6]), detail={"findings": findings[:50]}
    )


def _missing_model(finding: Mapping[str, Any]) -> bool:
    return finding["type"] == "value_not_in_list" and bool(
        MODEL_FILE.search(str(finding.get("value")))
    )


def execution_failure(data: Mapping[str, Any]) -> PennyreelError:
    """Translate an execution_error: its tensors are dropped, its traceback kept short."""
    node, class_type = str(data.get("node_id", "?")), str(data.get("node_type", "?"))
    message = str(data.get("exception_message", "")).strip()[:1500]
    kind = str(data.get("exception_type", ""))
    trace = [str(line).rstrip() for line in data.get("traceback") or ()][-3:]
    cause = classify(kind, message)
    # Poisoned is a crash that has not ended yet: what it runs from now on fails, too.
    code = CODES.get(cause, Code.EXECUTION_FAILED) if cause else Code.EXECUTION_FAILED
    told = f"node {node} ({class_type}) failed: {kind}: {message}"
    hint = None
    if cause in _TOLD and (known := diagnose([f"{kind}: {message}"])) is not None:
        told, hint = f"{told}: {known.sentence}", known.hint
    return error(
        code,
        told,
        hint=hint,
        detail={
            "node": node,
            "class_type": class_type,
            "exception": kind,
            "cause": cause.value if cause else None,
            "traceback": [line[:1000] for line in trace],
        },
    )
