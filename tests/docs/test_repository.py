"""The repository stands alone: it names no machine, and its packages say what they offer."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.pages import ROOT

MADE = {"build", "dist", "out", "__pycache__"}
MACHINE = re.compile(r"(?<![\w.}])/(?:root|work|home/\w+|Users/\w+)/|[A-Z]:\\\\?Users\\")
REGISTRY = re.compile(
    r"https?://[^\s/\"'`]*(?:pypi|pythonhosted|devpi|artifactory|nexus|mirror|registry)"
    r"|(?:extra-)?index-url[= ]+https?://"
)


def tracked() -> Iterator[Path]:
    """Every file but those that are made, as .gitignore has it."""
    places = [ROOT]
    while places:
        for path in places.pop().iterdir():
            hidden = path.name.startswith(".") and path.name not in {".ci", ".github"}
            if path.name == ".git":  # a folder, or a file in a linked worktree
                continue
            if path.is_dir() and not hidden and path.name not in MADE:
                places.append(path)
            elif path.is_file() and not path.name.startswith(".coverage"):
                yield path


def lists() -> Iterator[tuple[str, list[str]]]:
    """Each module that has an `__all__`, with it."""
    for source in ("client", "worker"):
        for file in sorted((ROOT / source).rglob("*.py")):
            for node in ast.parse(file.read_text("utf-8")).body:
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                    parts = file.relative_to(ROOT / source).with_suffix("").parts
                    name = ".".join(p for p in parts if p != "__init__")
                    yield name, ast.literal_eval(node.value)


def rank(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest, each by name."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


@pytest.mark.parametrize("pattern", [MACHINE, REGISTRY], ids=["machine", "registry"])
def test_no_file_names_a_machine_or_its_package_index(pattern: re.Pattern[str]) -> None:
    found = []
    for file in tracked():
        text = file.read_bytes().decode("utf-8", "replace")
        found += [f"{file.relative_to(ROOT)}: {m[0]}" for m in pattern.finditer(text)]
    assert found == []


@pytest.mark.parametrize(
    ("module", "names"), list(lists()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_public_names_are_sorted_and_there(module: str, names: list[str]) -> None:
    assert names == sorted(names, key=rank)
    offered = importlib.import_module(module)
    assert [name for name in names if not hasattr(offered, name)] == []


def test_every_package_with_a_public_face_lists_it() -> None:
    assert {
        "pennyreel", "pennyreel.devstack", "pennyreel_comfy.install", "pennyreel_contract",
        "pennyreel_emulators.runpod",
    } <= {module for module, _ in lists()}  # fmt: skip
