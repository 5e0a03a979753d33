"""Requests: strict, frozen, and every fault named at once."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

import pennyreel_contract
from pennyreel_contract import (
    CONTRACT,
    CONTRACT_MIN,
    BadRequest,
    InfoRequest,
    InputFile,
    JobRequest,
    Outputs,
    new_attempt_id,
    parse_request,
)

GRAPH = {"1": {"class_type": "SaveImage", "inputs": {}}}
ATTEMPT = "attempt-0001"
MODELS = [
    value
    for value in vars(pennyreel_contract).values()
    if isinstance(value, type) and issubclass(value, BaseModel)
]


def body(**more: Any) -> dict[str, Any]:
    return {"contract": 1, "attempt_id": ATTEMPT, "workflow": GRAPH, **more}


def refused(request: object) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parse_request(request)
    return caught.value


def test_the_public_names_are_sorted_and_exist() -> None:
    names = pennyreel_contract.__all__
    upper = [n for n in names if n.isupper()]
    assert names[: len(upper)] == sorted(upper)
    assert all(hasattr(pennyreel_contract, name) for name in names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)
def test_every_model_is_frozen_and_says_what_it_does_with_unknown_fields(
    model: type[BaseModel],
) -> None:
    strict = model in {InfoRequest, InputFile, JobRequest, pennyreel_contract.ModelNeed, Outputs}
    assert model.model_config.get("frozen") is True
    assert model.model_config.get("extra") == ("forbid" if strict else "ignore")


def test_a_frozen_request_cannot_be_changed() -> None:
    request = JobRequest(attempt_id=ATTEMPT, workflow=GRAPH)
    with pytest.raises(ValidationError, match="frozen"):
        request.seed = 1  # type: ignore[misc]


def test_all_faults_are_named_at_once() -> None:
    problem = refused(
        body(
            attempt_id="short",
            colour="red",
            seed="7",
            timeout_s=-1,
            outputs={"nodes": [], "speed": 1},
            inputs=[{"name": "a/b", "data": "x"}, {"name": "c"}],
        )
    )
    assert problem.code == "bad_request"
    told = " | ".join(problem.info.detail["problems"])  # type: ignore[arg-type]
    for field in (
        "attempt_id:", "colour:", "seed:", "timeout_s:", "outputs.nodes:", "outputs.speed:",
        "inputs.0.name:", "inputs.1: give exactly one of data, url, s3 (got none)",
    ):  # fmt: skip
        assert field in told, field
    assert problem.hint


@pytest.mark.parametrize("field", ["contract", "seed", "timeout_s", "preview"])
@pytest.mark.parametrize("value", ["1", [], {}])
def test_a_value_of_the_wrong_type_is_refused_and_not_converted(field: str, value: object) -> None:
    problem = refused(body(**{field: value}))
    assert problem.code == "bad_request"
    assert field in str(problem)


@pytest.mark.parametrize("given", [None, [], "x", 7, b"{}"])
def test_what_is_no_object_is_refused(given: object) -> None:
    assert "must be an object" in str(refused(given))


@pytest.mark.parametrize("version", [CONTRACT_MIN - 1, CONTRACT + 1, 10**30])
def test_a_version_out_of_range_is_told_the_range(version: int) -> None:
    problem = refused(body(contract=version, something_new=True))
    assert problem.code == "contract_unsupported"
    assert problem.info.detail == {"min": CONTRACT_MIN, "max": CONTRACT}
    assert not problem.retryable


def test_true_is_no_version() -> None:
    assert refused(body(contract=True)).code == "bad_request"


def test_an_unknown_operation_is_named() -> None:
    assert "'stop'" in str(refused(body(op="stop")))


def test_an_info_request_has_nothing_else() -> None:
    assert parse_request({"contract": 1, "op": "info"}) == InfoRequest()
    assert "workflow" in str(refused({"op": "info", "workflow": {}}))


@pytest.mark.parametrize(
    ("request_body", "why"),
    [
        ({"contract": 1, "attempt_id": ATTEMPT}, "exactly one of workflow and template"),
        (body(template="hello-video"), "exactly one of workflow and template"),
        (body(parameters={"a": 1}), "parameters belong to a template"),
        (body(metadata={"a": "é" * 8200}), "16384 bytes"),
        (body(inputs=[{"name": "a", "data": "x"}, {"name": "a", "data": "y"}]), "same name"),
        (body(inputs=[{"name": "a", "data": "x", "url": "https://e.org/a"}]), "got data, url"),
        (body(inputs=[{"name": "a", "url": "file:///etc/passwd"}]), "http:// or https://"),
        (body(inputs=[{"name": "a", "url": "https://e.org/a b"}]), "white space"),
        (body(inputs=[{"name": "a", "url": "https://e.org/\r\nX: y"}]), "white space"),
        (body(inputs=[{"name": "a", "s3": "s3://bucket"}]), "s3://bucket/key"),
        (body(metadata={"a": float("nan")}), "metadata: not JSON"),
        (body(workflow={"1": {"x": float("inf")}}), "workflow: not JSON"),
        (body(workflow={"\ud800": {}}), "workflow: a text in it is not valid Unicode"),
        (body(models=[{"folder": "a/../../b", "name": "x"}]), "must stay in its folder"),
        (body(models=[{"folder": "loras", "name": "/etc/x"}]), "must stay in its folder"),
        (body(outputs={"kinds": ["film"]}), "outputs.kinds.0"),
    ],
)
def test_what_is_refused_and_why(request_body: dict[str, Any], why: str) -> None:
    problem = refused(request_body)
    assert problem.code == "bad_request"
    assert why in str(problem)


@pytest.mark.parametrize(
    "name",
    [
        "a/b.png",
        "..\\b.png",
        "..",
        ".",
        "",
        "a\nb",
        "a.png\n",
        "a\0b",
        "é" * 101,
        "x" * 201,
        "\ud800",
    ],
)
def test_names_with_folders_or_beyond_what_a_disk_takes_are_refused(name: str) -> None:
    assert "inputs.0.name" in str(refused(body(inputs=[{"name": name, "data": "aGk="}])))


@pytest.mark.parametrize(
    "attempt",
    ["1234567", "a" * 65, "-aaaaaaaa", "aaaa aaaa", "../aaaaaaa", "aaaaaaaa\n", "ähnlich-1"],
)
def test_attempt_ids_are_safe_as_file_names_and_keys(attempt: str) -> None:
    assert "attempt_id" in str(refused(body(attempt_id=attempt)))


def test_minted_attempt_ids_are_valid_and_differ() -> None:
    minted = {new_attempt_id() for _ in range(100)}
    assert len(minted) == 100
    for attempt in minted:
        parse_request(body(attempt_id=attempt))


def test_neither_data_nor_urls_show_in_a_repr() -> None:
    item = InputFile(name="a.png", url="https://e.org/a?sig=SECRET")
    assert "SECRET" not in repr(item)
    assert "SECRET" not in repr(JobRequest(attempt_id=ATTEMPT, workflow=GRAPH, inputs=(item,)))


def test_the_wire_leaves_defaults_out_and_names_its_version() -> None:
    assert JobRequest(attempt_id=ATTEMPT, template="hello-video").wire() == {
        "contract": CONTRACT,
        "op": "run",
        "attempt_id": ATTEMPT,
        "template": "hello-video",
    }


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
names = st.from_regex(r"[A-Za-z0-9_. -]{1,40}", fullmatch=True).filter(
    lambda n: n not in {".", ".."}
)
inputs = st.one_of(
    st.builds(InputFile, name=names, data=st.text(max_size=30)),
    st.builds(InputFile, name=names, url=st.just("https://example.org/x?y=1")),
    st.builds(InputFile, name=names, s3=st.just("s3://bucket/key")),
)
requests = st.builds(
    JobRequest,
    attempt_id=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{7,63}", fullmatch=True),
    workflow=st.dictionaries(st.text(max_size=5), json_values, max_size=3),
    inputs=st.lists(inputs, max_size=3, unique_by=lambda i: i.name).map(tuple),
    outputs=st.builds(
        Outputs,
        nodes=st.none() | st.lists(st.text(max_size=4), min_size=1, max_size=3).map(tuple),
        temp=st.booleans(),
        delivery=st.sampled_from(["auto", "inline", "s3"]),
        url_ttl_s=st.integers(60, 604_800),
    ),
    timeout_s=st.none() | st.floats(0.001, 604_800),
    seed=st.none() | st.integers(0, 2**64 - 1),
    metadata=st.dictionaries(st.text(max_size=5), json_values, max_size=3),
)


@given(requests)
def test_a_request_survives_the_wire(request: JobRequest) -> None:
    assert parse_request(json.loads(json.dumps(request.wire()))) == request


@given(json_values | st.dictionaries(st.text(max_size=12), json_values))
def test_anything_at_all_is_read_or_refused_with_our_own_error(given: object) -> None:
    with contextlib.suppress(BadRequest):
        parse_request(given)
