"""See docs/reliability.md."""

from __future__ import annotations

import pytest

from faults import cases_disk as cases
from faults.case import Case, prove
from faults.proof import Lame
from faults.site import Site

pytestmark = [pytest.mark.real, pytest.mark.long, pytest.mark.timeout(400)]
every_case = pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)


@every_case
def test_a_full_disk_is_survived(case: Case, site: Site) -> None:
    prove(case, site)


@pytest.mark.long
@every_case
def test_a_full_disk_is_not_survived_without_its_handling(case: Case, lame: Lame) -> None:
    assert lame.fails(case)
