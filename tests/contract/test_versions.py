"""The former version crossed with the new: golden files are what was released, and stay.

When CONTRACT rises, the present forms are added as golden/v<CONTRACT>; no file is ever changed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, create_model

from pennyreel_contract import (
    CONTRACT,
    CONTRACT_MIN,
    BadRequest,
    ErrorInfo,
    InfoRequest,
    JobRequest,
    parse_info,
    parse_progress,
    parse_request,
    parse_result,
)

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(GOLDEN.glob("v*/*.json"))


def load(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def fields(body: object, at: str = "") -> set[str]:
    """The paths of all fields, but not what clients fill with things of their own."""
    if isinstance(body, list):
        return {path for item in body for path in fields(item, at)}
    if not isinstance(body, dict) or at in {".workflow", ".metadata", ".parameters"}:
        return set()
    return {f"{at}.{key}" for key in body} | {
        path for key, value in body.items() for path in fields(value, f"{at}.{key}")
    }


def model_fields(model: type[BaseModel], at: str = "") -> set[str]:
    found = set()
    for name, field in model.model_fields.items():
        found.add(f"{at}.{name}")
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel):
                found |= model_fields(part, f"{at}.{name}")
    return found


def golden_fields(version: int) -> set[str]:
    paths = (GOLDEN / f"v{version}").glob("request-[wt]*.json")
    return set().union(*(fields(load(path)) for path in paths))


def test_every_version_that_is_spoken_has_its_golden_files() -> None:
    spoken = {f"v{v}" for v in range(CONTRACT_MIN, CONTRACT + 1)}
    assert spoken <= {path.parent.name for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_the_present_code_reads_every_former_form(path: Path) -> None:
    body, kind = load(path), path.stem.split("-")[0]
    if kind == "request":
        request = parse_request(body)
        assert isinstance(request, InfoRequest if path.stem.endswith("info") else JobRequest)
        if isinstance(request, JobRequest):  # and means what it meant
            assert request.wire() == body
    elif kind == "result":
        written = parse_result(body).wire()
        assert {key: written[key] for key in body} == body
    elif kind == "info":
        assert parse_info(body).wire() == body
    elif kind == "progress":
        progress = parse_progress(body)
        assert progress is not None
        assert progress.wire() == body
    else:
        info = ErrorInfo.decode(body)
        assert info.code != "execution_failed"
        assert info.message
        assert json.loads(body)["pennyreel_error"].items() <= info.model_dump().items()


def test_a_request_of_the_present_code_has_only_fields_of_its_version() -> None:
    """A worker of this version refuses others: a new field needs a new version."""
    assert model_fields(JobRequest) == golden_fields(CONTRACT), (
        "JobRequest changed: raise CONTRACT and add golden/v<CONTRACT> (docs/contract.md)"
    )


@pytest.mark.parametrize("version", range(CONTRACT_MIN, CONTRACT + 1))
def test_a_client_speaks_an_older_version_by_leaving_the_newer_fields_out(version: int) -> None:
    wire = JobRequest(contract=version, attempt_id="attempt-0001", template="hello-video").wire()
    assert wire["contract"] == version
    assert fields(wire) <= golden_fields(version)


def test_answers_of_the_next_version_are_read_by_this_client() -> None:
    for path in sorted((GOLDEN / f"v{CONTRACT}").glob("result-*.json")):
        body = load(path)
        artifacts = [{**a, "kind": "splat", "lossless": True} for a in body.get("artifacts", [])]
        newer = parse_result({**body, "contract": CONTRACT + 1, "artifacts": artifacts, "co2": 1})
        assert [a.kind for a in newer.artifacts] == ["splat"] * len(artifacts)
    progress = parse_progress(
        {"pennyreel_progress": {"percent": 1.0, "stage": "compiling", "watts": 7}}
    )
    assert progress is not None
    assert progress.stage == "compiling"
    info = ErrorInfo.decode(
        '{"pennyreel_error": {"code": "melted", "message": "m", "hint": "h", "since": 2}}'
    )
    assert (info.code, info.hint) == ("melted", "h")


def test_a_request_of_the_next_version_is_told_which_ones_are_spoken() -> None:
    newer = create_model("NewerRequest", __base__=JobRequest, priority=(int, 0))
    wire = newer(contract=CONTRACT + 1, attempt_id="attempt-0001", template="t", priority=3).wire()
    with pytest.raises(BadRequest) as caught:
        parse_request(wire)
    spoken = caught.value.info.detail
    assert caught.value.code == "contract_unsupported"
    assert spoken == {"min": CONTRACT_MIN, "max": CONTRACT}
    # So the newer client says it again in this version, without what that lacks.
    again = newer(contract=int(str(spoken["max"])), attempt_id="attempt-0001", template="t").wire()
    assert isinstance(parse_request(again), JobRequest)
