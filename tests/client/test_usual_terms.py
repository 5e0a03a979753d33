"""Terms that the settings have hold for every job that does not say otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.commands import called
from pennyreel import BadRequest, Client, SetupNeeded, options
from pennyreel.config import load
from pennyreel.routing.decision import Verdict
from pennyreel.routing.facts import Place


def decision(quoted: Any, backend: str) -> Any:
    return next(c for c in quoted.rows if c.backend == backend)


def test_the_callers_word_wins_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[policy]\nname = "best"\nforbid = ["veo"]\n[labels]\nproject = "film"\n')
    monkeypatch.setenv("PENNYREEL_CONFIG", str(file))
    monkeypatch.setenv("PENNYREEL_POLICY", "fastest")
    settings = load(user="me")
    terms = options.terms_of({"forbid": (), "policy": None, "seed": 3}, settings)
    assert terms == {"policy": "fastest", "forbid": (), "project": "film", "user": "me"}
    assert options.terms_of({"policy": "local-only"}, settings)["policy"] == "local-only"


def test_a_quote_of_the_library_is_by_the_settings_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENNYREEL_FORBID", "runpod")
    monkeypatch.setenv("PENNYREEL_POLICY", "fastest")
    with Client() as client:
        quoted = client.quote("a boat")
        assert quoted.decision.policy == "fastest"
        assert decision(quoted, "runpod").verdict is Verdict.FORBIDDEN
        assert decision(client.quote("a boat", forbid=()), "runpod").verdict is Verdict.UNAVAILABLE
    with Client(places=[Place.OWN.value], policy="best") as client:
        quoted = client.quote("a boat")
        assert quoted.decision.policy == "best"
        assert decision(quoted, "replicate").verdict is Verdict.FORBIDDEN


def test_a_jobs_record_has_the_settings_limits_and_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENNYREEL_PROJECT", "film")
    monkeypatch.setenv("PENNYREEL_SIMULATED", "run_s=0.02")
    with Client(backend="simulated") as client:
        client.generate("a boat")
        client.generate("a boat", project="other")
        spent = client.dispatch.ledger.spending("project", since_ms=0)
    assert {one.group for one in spent} == {"film", "other"}


def test_the_command_line_lifts_what_the_settings_say(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENNYREEL_PRIVATE", "yes")
    verdicts = {}
    for args in ((), ("--no-private",), ("--private",)):
        ran = called(capsys, "quote", "a boat", "--json", *args)
        rows = {row["backend"]: row for row in ran.json["candidates"]}
        verdicts[args] = rows["replicate"]["verdict"]
    assert verdicts[()] == verdicts[("--private",)] == "not_private"
    assert verdicts[("--no-private",)] == "unavailable"


@pytest.mark.parametrize(
    ("env", "text", "told"),
    [
        ("PENNYREEL_POLICY", "cheapets", "Did you mean cheapest"),
        ("PENNYREEL_FORBID", "vwo", "Did you mean veo"),
        ("PENNYREEL_ON", "moon", "hosted"),
    ],
)
def test_a_setting_that_names_what_there_is_not_is_told_by_its_variable(
    env: str, text: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(env, text)
    with Client(backend="simulated") as client:
        with pytest.raises(SetupNeeded, match=env) as caught:
            client.generate("a boat")
        assert told in str(caught.value)
        assert client.dispatch.ledger.jobs() == []


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        (lambda c: c.generate("a boat", secnds=5), "Did you mean seconds?"),
        (lambda c: c.start("a boat", max_costs="1"), "Did you mean max_cost?"),
        (lambda c: c.quote("a boat", max_kost=1, sed=2), "Did you mean max_cost and seed?"),
        (lambda c: c.run("hello-video", parameter={}), "Did you mean parameters?"),
        (lambda c: c.quote_workflow("hello-video", zzz=1), "It may be: "),
        (lambda c: c.again("0" * 32, max_costs="1"), "Did you mean max_cost?"),
        (lambda c: c.generate_many(["a boat"], secnds=5), "Did you mean seconds?"),
    ],
)
def test_a_word_that_nobody_knows_is_refused_and_not_passed_over(
    call: Callable[[Any], object], hint: str
) -> None:
    with Client() as client, pytest.raises(BadRequest) as told:
        call(client)
    assert hint in f"{told.value} {told.value.hint}"
    with Client() as client:
        assert client.dispatch.ledger.jobs() == []
