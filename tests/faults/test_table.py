"""docs/reliability.md is what the cases say, and each case can be proved."""

from __future__ import annotations

from faults.handlings import HANDLINGS
from faults.table import PAGE, all_cases, renewed


def test_the_table_of_faults_is_what_the_cases_say() -> None:
    text = PAGE.read_text("utf-8")
    assert text == renewed(text), "run: python tests/faults/table.py"


def test_there_are_at_least_25_faults_each_with_a_handling_that_can_be_taken_out() -> None:
    cases = all_cases()
    assert len(cases) >= 25
    assert {case.handling for case in cases} == set(HANDLINGS), "no handling is without a case"
    assert len({case.name for case in cases}) == len(cases)
