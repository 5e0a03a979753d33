"""What a file of weights begins with: a pickle under another name is not taken."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from pennyreel_comfy.models.names import SAFE
from pennyreel_contract import Code, PennyreelError, error

MAX_HEADER_BYTES = 100_000_000
"""The format's own limit for its header."""


def check_content(path: Path, suffix: str, label: str) -> None:
    """Look at the head of a file that says it holds numbers only.

    Args:
        path: the file.
        suffix: how its name ends, in lower case. Pickles have no head that would say anything.
        label: what to call it.

    Raises:
        BadRequest: `model_refused`.

    """
    if suffix not in SAFE:
        return
    why = _gguf(path) if suffix == ".gguf" else _safetensors(path)
    if why:
        raise _refused(label, suffix, why)


def _refused(label: str, suffix: str, why: str) -> PennyreelError:
    return error(
        Code.MODEL_REFUSED,
        f"{label} is no {suffix[1:]} file: {why}",
        hint="Check that the URL leads to the file itself, and not to a page about it.",
    )


def _gguf(path: Path) -> str:
    with path.open("rb") as file:
        return "" if file.read(4) == b"GGUF" else "it does not begin like one"


def _safetensors(path: Path) -> str:
    """Return what is wrong: it is 8 bytes of length, a JSON object, and the tensors' data."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if len(head) < 8:
            return "it is too short"
        length = struct.unpack("<Q", head)[0]
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            return "it does not begin like one"
        raw = file.read(length)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        return "its header is not JSON"
    if not isinstance(header, dict):
        return "its header is not an object"
    return _tensors(header, size - 8 - length)


def _tensors(header: dict[str, object], data: int) -> str:
    ends = [0]
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        offsets = tensor.get("data_offsets") if isinstance(tensor, dict) else None
        if not (isinstance(offsets, list) and len(offsets) == 2 and isinstance(offsets[1], int)):
            return "its header does not describe tensors"
        ends.append(offsets[1])
    return "" if max(ends) == data else "its header and its size differ"
