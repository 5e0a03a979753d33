"""Links lead somewhere, files that are named are there, and the changelog knows the version."""

from __future__ import annotations

import re
import sys

import pytest

from docs.pages import NAMES, ROOT, Page, first_column, page
from pennyreel_contract.version import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
NAMED = re.compile(r"(?:client|worker|tests|bench|workflows|docs)/[\w./-]+")
SOURCES = [
    file
    for place in ("client", "worker", "tests", "bench", "Makefile", "pyproject.toml")
    for file in ([ROOT / place] if (ROOT / place).is_file() else (ROOT / place).rglob("*.py"))
]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_files_and_headings_that_are_there(name: str) -> None:
    here = page(name)
    for link in here.links():
        if re.match(r"https?://|mailto:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (here.path.parent / target).resolve() if target else here.path
        assert file.exists(), link
        assert ROOT in [file, *file.parents], link
        assert not anchor or anchor in Page(file).anchors(), link


@pytest.mark.parametrize("name", NAMES)
def test_files_named_in_backticks_are_there(name: str) -> None:
    for code in page(name).inline():
        if NAMED.fullmatch(code):
            assert (ROOT / code).exists(), code


@pytest.mark.parametrize("name", NAMES)
def test_variables_named_in_the_documentation_are_read_somewhere(name: str) -> None:
    named = set(re.findall(r"\bPENNYREEL_[A-Z0-9_]+\b", page(name).text))
    for file in SOURCES:
        named -= {one for one in named if one in file.read_text("utf-8")}
    assert not named


def test_the_rooms_of_a_run_are_there() -> None:
    rooms = re.findall(r"`(\S+\.py)`", page("ARCHITECTURE.md").section(
        "One run() call, room by room"
    ))  # fmt: skip
    assert len(rooms) > 20
    assert [room for room in rooms if not (ROOT / room).is_file()] == []


def test_architecture_names_the_rules_and_the_packages_of_pyproject() -> None:
    text = " ".join(page("ARCHITECTURE.md").text.split())
    for contract in PROJECT["tool"]["importlinter"]["contracts"]:
        assert contract["name"] in text
    for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        assert f"`{package}`" in text


def test_the_readme_has_the_extras_of_pyproject() -> None:
    extras = set(first_column(page("README.md").section("Install"))) - {"none"}
    assert extras == set(PROJECT["project"]["optional-dependencies"])


def test_the_changelog_has_this_version_with_its_date() -> None:
    text = page("CHANGELOG.md").text
    assert "\n## [Unreleased]\n" in text
    assert re.search(rf"^## \[{re.escape(__version__)}\] - \d{{4}}-\d\d-\d\d$", text, re.MULTILINE)
