"""Errors: a table that is complete, strings that a platform carries, and any text read back."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pennyreel_contract import (
    BadRequest,
    Code,
    ErrorInfo,
    JobCancelled,
    JobFailed,
    JobTimeout,
    OutcomeUnknown,
    PennyreelError,
    SetupNeeded,
    Unavailable,
    error,
)
from pennyreel_contract.errors import MAX_BYTES, MAX_MESSAGE

texts = st.text(st.characters(), max_size=60)  # lone surrogates included


@pytest.mark.parametrize("code", list(Code), ids=lambda c: c.value)
def test_every_code_has_a_class_a_hint_and_a_way_back(code: Code) -> None:
    problem = error(code, "what happened")
    assert type(problem) is not PennyreelError
    assert len(problem.hint) > 10
    assert problem.code == code.value
    assert str(problem) == "what happened"
    assert ErrorInfo.decode(problem.info.encode()) == problem.info


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.BAD_REQUEST, BadRequest),
        (Code.UI_FORMAT, BadRequest),
        (Code.ATTEMPT_CONFLICT, BadRequest),
        (Code.NOT_INSTALLED, SetupNeeded),
        (Code.COMFY_START_FAILED, SetupNeeded),
        (Code.RATE_LIMITED, Unavailable),
        (Code.EXECUTION_FAILED, JobFailed),
        (Code.RESULT_TOO_LARGE, JobFailed),
        (Code.TIMEOUT, JobTimeout),
        (Code.CANCELLED, JobCancelled),
        (Code.UNKNOWN_OUTCOME, OutcomeUnknown),
    ],
)
def test_the_class_says_what_the_caller_does_next(code: Code, kind: type[PennyreelError]) -> None:
    assert type(error(code, "m")) is kind
    assert type(PennyreelError.from_info(ErrorInfo.make(code, "m"))) is kind


def test_a_newer_code_is_a_failed_job_and_keeps_its_own_verdict() -> None:
    info = ErrorInfo.decode(
        '{"pennyreel_error": {"code": "gpu_on_fire", "message": "m", "retryable": true, "new": 1}}'
    )
    problem = PennyreelError.from_info(info)
    assert type(problem) is JobFailed
    assert (problem.code, problem.retryable) == ("gpu_on_fire", True)


def test_hint_verdict_and_detail_can_be_given() -> None:
    problem = error(Code.TIMEOUT, "m", hint="h", retryable=False, detail={"a": 1})
    assert (problem.hint, problem.retryable, problem.info.detail) == ("h", False, {"a": 1})


def test_an_error_can_be_copied_and_sent_to_another_process() -> None:
    problem = error(Code.BAD_INPUT, "m", detail={"a": 1})
    for twin in (copy.copy(problem), pickle.loads(pickle.dumps(problem))):  # noqa: S301 - ours
        assert type(twin) is BadRequest
        assert twin.info == problem.info


SDK = json.dumps(
    {
        "error_type": "<class 'ValueError'>",
        "error_message": "bad",
        "error_traceback": "Traceback …",
        "hostname": "h",
        "worker_id": "w1",
        "runpod_version": "1.12.0",
    }
)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (SDK, "bad (<class 'ValueError'>)"),
        ("plain words", "plain words"),
        ("", "failed without a reason"),
        (None, "failed without a reason"),
        ("null", "null"),
        ("[1, 2]", "[1, 2]"),
        ("{broken", "{broken"),
        ("{}", "{}"),
        ('{"message": "theirs", "code": "cancelled"}', "theirs"),
        ('{"error": {"a": 1}}', "{'a': 1}"),
        ('{"pennyreel_error": "text"}', '{"pennyreel_error": "text"}'),
        ('{"pennyreel_error": {"message": "no code"}}', "no code"),
        (["a"], "['a']"),
        (7, "7"),
    ],
)
def test_whoever_wrote_it_an_error_is_read(given: object, message: str) -> None:
    info = ErrorInfo.decode(given)
    assert (info.code, info.message) == ("execution_failed", message)
    assert info.hint


def test_the_sdks_worker_id_is_kept() -> None:
    assert ErrorInfo.decode(SDK).detail == {"worker_id": "w1"}


@pytest.mark.parametrize("given", ["x" * 10**6, "[" * 10**5, json.dumps({"message": "x" * 10**6})])
def test_huge_errors_are_cut(given: str) -> None:
    assert len(ErrorInfo.decode(given).message) <= MAX_MESSAGE


@pytest.mark.parametrize("filling", ["x", '"', "\x01", "é", "\U0001f600", "\ud800", "\\"])
def test_an_encoded_error_is_never_larger_than_its_limit(filling: str) -> None:
    many = filling * 50_000
    info = ErrorInfo.make(
        Code.BAD_WORKFLOW, many, hint=many, detail={"a": many, "b": [many], "nan": float("nan")}
    )
    text = info.encode()
    assert len(text.encode()) <= MAX_BYTES
    back = ErrorInfo.decode(text)
    assert back.code == "bad_workflow"
    assert back.message
    assert info.message.startswith(back.message)
    assert "truncated" in back.detail


def test_what_json_cannot_carry_becomes_text() -> None:
    info = ErrorInfo.make(Code.INTERNAL, "m", detail={"path": {1}, "t": (1, 2)})
    assert info.detail == {"path": "{1}", "t": [1, 2]}


@given(texts, texts, st.dictionaries(texts, texts | st.integers() | st.none(), max_size=3))
def test_an_error_survives_the_wire(message: str, hint: str, detail: dict[str, object]) -> None:
    info = ErrorInfo.make(Code.INTERNAL, message, hint=hint, detail=detail)
    assert ErrorInfo.decode(info.encode()) == info


@given(st.text() | st.binary() | st.integers() | st.lists(st.integers()) | st.none())
def test_decode_never_raises(given: object) -> None:
    assert ErrorInfo.decode(given).message
