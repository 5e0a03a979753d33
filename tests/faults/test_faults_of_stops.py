"""See docs/reliability.md."""

from __future__ import annotations

import pytest

from faults import cases_stops as cases
from faults.case import Case, prove
from faults.proof import Lame
from faults.site import Site

pytestmark = [pytest.mark.timeout(400)]
every_case = pytest.mark.parametrize(
    "case",
    [pytest.param(c, id=c.name, marks=[pytest.mark.long] if c.long else []) for c in cases.CASES],
)


@every_case
def test_a_stop_at_any_moment_is_survived(case: Case, site: Site) -> None:
    prove(case, site)


@pytest.mark.long
@every_case
def test_a_stop_at_any_moment_is_not_survived_without_its_handling(case: Case, lame: Lame) -> None:
    assert lame.fails(case)
