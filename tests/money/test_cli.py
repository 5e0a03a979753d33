"""`pennyreel budget` and `pennyreel costs`, as they are typed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from money.support import Place, reserve
from pennyreel.cli.app import run
from pennyreel.config import load
from pennyreel.money.ledger import Ledger
from pennyreel.money.periods import stamp


@pytest.fixture
def books(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """The ledger that the commands find by its URL."""
    monkeypatch.setenv("PENNYREEL_LEDGER_URL", place.url)
    with Ledger.open(load()) as ledger:
        yield ledger


def test_a_budget_is_set_shown_and_removed(
    books: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["budget", "set", "all", "--day", "2", "--month", "20"]) == 0
    assert run(["budget", "set", "project:film", "--total", "$0.50"]) == 0
    assert "all: at most $2.00 a day" in capsys.readouterr().err
    reserve(books, "a", 250_000, project="film")
    books.settle("a", 100_000)
    reserve(books, "b", 30_000, project="film")
    assert run(["budget"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "scope",
        "period",
        "cap",
        "spent",
        "reserved",
        "left",
        "resets",
        "(UTC)",
    ]
    assert lines[1].split()[:6] == ["all", "day", "$2.00", "$0.10", "$0.03", "$1.87"]
    assert lines[3].split() == [
        "project:film", "total", "$0.50", "$0.10", "$0.03", "$0.37", "never",
    ]  # fmt: skip
    assert run(["budget", "remove", "all", "--month"]) == 0
    capsys.readouterr()
    assert run(["budget", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["budgets"]
    assert [(b["scope"], b["period"]) for b in told] == [("all", "day"), ("project:film", "total")]
    assert told[0]["cap_microusd"] == 2_000_000
    assert run(["budget", "remove", "all"]) == 0
    assert run(["budget", "remove", "all"]) == 2
    assert "next: See what is set: pennyreel budget" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["set", "everything", "--day", "1"], "no scope of a budget"),
        (["set", "backend", "--day", "1"], "no scope of a budget"),
        (["set", "all:x", "--day", "1"], "no scope of a budget"),
        (["set", "user: ada", "--day", "1"], "is no name"),
        (["set", "all", "--day", "much"], "--day is no amount in dollars"),
        (["set", "all", "--day", "-1"], "no amount"),
        (["set", "all"], "--day, --month or --total"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_next_step(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["budget", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_without_a_budget_the_command_says_how_to_set_one(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["budget"]) == 0
    assert "pennyreel budget set all --day 2 --month 20" in capsys.readouterr().err
    assert (home / "ledger.db").stat().st_mode & 0o777 == 0o600


def test_costs_are_added_up_by_each_label(
    books: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    spend(books)
    today = (stamp(books.now_ms()) or "")[:10]
    for by, expected in {
        "day": {today: 1_300_000},
        "month": {today[:7]: 1_300_000},
        "backend": {"gemini": 1_000_000, "runpod": 300_000},
        "project": {"film": 1_000_000, "": 300_000},
        "user": {"": 1_000_000, "ada": 300_000},
        "template": {"": 1_300_000},
    }.items():
        assert run(["costs", "--by", by, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["by"] == by
        assert {g["group"]: g["spent_microusd"] for g in told["groups"]} == expected


def test_costs_are_a_table_or_csv(books: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    spend(books)
    assert run(["costs", "--by", "backend"]) == 0
    shown = capsys.readouterr()
    assert [re.split(r"  +", line) for line in shown.out.splitlines()] == [
        ["backend", "spent", "reserved", "jobs", "attempts"],
        ["gemini", "$1.00", "$0.00", "1", "1"],
        ["runpod", "$0.30", "$0.05", "2", "2"],
        ["all", "$1.30", "$0.05", "3"],
    ]
    assert "of 1 attempts nobody knows whether they ran" in shown.err
    assert run(["costs", "--by", "backend", "--csv", "--since", "2020-01-01"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "backend,spent_microusd,reserved_microusd,jobs,attempts,unknown_attempts,unpriced_attempts",
        "gemini,1000000,0,1,1,1,0",
        "runpod,300000,50000,2,2,0,0",
    ]


def test_costs_since_a_day_leave_out_what_was_before(
    books: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    spend(books)
    assert run(["costs", "--since", "2199-01-01"]) == 0
    assert "nothing was sent since 2199-01-01" in capsys.readouterr().err
    assert run(["costs", "--since", "yesterday"]) == 2
    assert "2026-11-27, or 7d" in capsys.readouterr().err


def spend(books: Ledger) -> None:
    reserve(books, "a", 400_000, user="ada")
    books.settle("a", 300_000)
    reserve(books, "b", 50_000, user="ada")
    reserve(books, "c", 1_000_000, backend="gemini", project="film")
    books.mark("c", "unknown")
