"""docs/contract.md: every example is read as what it says it is, every code is listed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pennyreel_contract import (
    Code,
    ErrorInfo,
    JobRequest,
    error,
    parse_info,
    parse_progress,
    parse_request,
    parse_result,
)
from pennyreel_contract.errors import MAX_BYTES
from pennyreel_contract.job import MAX_METADATA_BYTES, InputFile, Outputs

TEXT = (Path(__file__).parents[2] / "docs" / "contract.md").read_text("utf-8")
EXAMPLES = re.findall(r"^(\w+):\n```json\n(.*?)```", TEXT, re.MULTILINE | re.DOTALL)


def test_every_block_of_json_is_an_example_that_is_tested() -> None:
    assert len(EXAMPLES) == TEXT.count("```json")
    assert {kind for kind, _ in EXAMPLES} == {"request", "result", "info", "progress", "error"}


@pytest.mark.parametrize(("kind", "text"), EXAMPLES)
def test_the_example_is_what_it_says(kind: str, text: str) -> None:
    body: Any = json.loads(text)
    if kind == "request":
        assert parse_request(body)
    elif kind == "result":
        result = parse_result(body).wire()
        assert result.keys() == body.keys()
        assert result["artifacts"][0] == body["artifacts"][0]
    elif kind == "info":
        assert parse_info(body).wire() == body
    elif kind == "progress":
        progress = parse_progress(body)
        assert progress is not None
        assert progress.wire() == body
    else:
        info = ErrorInfo.decode(text)
        assert info == error(Code(info.code), info.message, detail=info.detail).info


def test_every_code_stands_in_the_table_with_its_class_and_hint() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (yes|no) \| (.*) \|$", TEXT, re.MULTILINE)
    made = [(c.value, error(c, "m")) for c in Code]
    assert rows == [
        (code, type(e).__name__, "yes" if e.retryable else "no", e.hint) for code, e in made
    ]


@pytest.mark.parametrize("model", [JobRequest, InputFile, Outputs])
def test_every_field_is_named(model: Any) -> None:
    for name in model.model_fields:
        assert re.search(rf"\b{name}\b", TEXT), name


def test_limits_are_the_codes() -> None:
    assert f"{MAX_METADATA_BYTES} bytes" in TEXT
    assert f"{MAX_BYTES} bytes" in TEXT
