"""Every command, make target and Python snippet in the documentation is one that exists."""

from __future__ import annotations

import ast
import re
import shlex

import click
import pytest

import pennyreel
from docs.pages import NAMES, ROOT, page
from pennyreel.cli.app import cli
from pennyreel.options import RouteOptions

COMMAND = re.compile(
    r"(?:\$ |do )?(?:[A-Z_0-9]+=\S+ )*(?:\.venv/bin/)?"
    r"(?:pennyreel|python -m pennyreel)(?: (?P<rest>.*?))?(?: >.*)?"
)
MAKE = re.compile(r"(?:^|(?<=[\s;]))make ([a-z]+(?:-[a-z]+)*)\b")


def called(text: str) -> list[list[str]]:
    """The arguments of each pennyreel command in a piece of shell."""
    found = []
    for line in text.splitlines():
        for part in re.split(r"[;|&]", line):
            match = COMMAND.fullmatch(part.strip())
            if match:
                found.append(shlex.split(match["rest"] or "", comments=True))
    return found


def resolve(arguments: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the arguments name, and the arguments that are left for it."""
    command: click.Command = cli
    left = list(arguments)
    while isinstance(command, click.Group) and left and not left[0].startswith("-"):
        found = command.get_command(click.Context(command), left[0])
        assert found is not None, f"there is no command {' '.join(arguments)}"
        command = found
        left = left[1:]
    return command, left


@pytest.mark.parametrize("name", NAMES)
def test_commands_in_blocks_parse(name: str) -> None:
    for block in page(name).blocks():
        for arguments in called(block):
            command, left = resolve(arguments)
            command.make_context("pennyreel", left)


@pytest.mark.parametrize("name", NAMES)
def test_commands_in_running_text_exist_with_their_options(name: str) -> None:
    for code in page(name).inline():
        for arguments in called(code):
            command, left = resolve(arguments)
            known = {o for p in command.params for o in p.opts} | {"--help", "-h", "--"}
            given = {a.partition("=")[0] for a in left if a.startswith("-")}
            assert given <= known, code


@pytest.mark.parametrize("name", [*NAMES, ".github/workflows/test.yml", ".ci/run"])
def test_make_targets_exist(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    shell = [*page(name).blocks(), *page(name).inline()] if name.endswith(".md") else []
    for text in shell or [page(name).text]:
        assert set(MAKE.findall(text)) <= targets, text


@pytest.mark.parametrize("name", NAMES)
def test_python_snippets_compile_and_use_names_that_exist(name: str) -> None:
    for snippet in page(name).fences("python", "py"):
        tree = ast.parse(snippet)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "pennyreel" or hasattr(pennyreel, node.attr), node.attr
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                given = {k.arg for k in node.keywords}
                known = {*RouteOptions.__annotations__, "on_event"}
                assert node.func.attr not in {"run", "submit", "subscribe"} or given <= known


def test_the_first_commands_of_the_readme_are_demo_and_test() -> None:
    firsts = [line for block in page("README.md").blocks() for line in block.splitlines()]
    assert [line for line in firsts if line.startswith("make ")][:2] == ["make demo", "make test"]


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert "\nmake test\n" in page(".ci/run").text
