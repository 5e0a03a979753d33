"""What docs/library.md shows is run, as it stands there, and is short."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.pages import page
from pennyreel import AsyncClient, Client, hooks
from pennyreel.client import Client as Wired
from pennyreel.config import FIELDS

EXAMPLES = page("docs/library.md").fences("python")


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs(
    number: int,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PENNYREEL_BACKEND", "simulated")
    monkeypatch.setenv("PENNYREEL_SIMULATED", "run_s=0.02")
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)  # it would outlive the test
    given = {"Client": Client, "__name__": "example"}
    exec(compile(EXAMPLES[number], f"library.md, example {number + 1}", "exec"), given)  # noqa: S102
    told = capsys.readouterr().out
    if "clip" in given:
        assert given["clip"].paths[0].parent == out  # type: ignore[attr-defined]
    else:
        assert told


def test_the_page_names_every_call_and_hook() -> None:
    named = set(page("docs/library.md").inline())
    calls = {n for n in vars(Wired) if not n.startswith("_")} - {"dispatch", "close"}
    assert calls <= named
    assert {n for n in vars(hooks.Hook) if not n.startswith("_")} <= named
    assert AsyncClient.__name__ in named


def test_the_page_of_settings_says_how_each_kind_of_origin_ranks() -> None:
    text = page("docs/configuration.md").text
    for origin in ("argument", "environment", "file", "keyring", "default"):
        assert origin in text
    assert all(f"`{field.env}`" in text for field in FIELDS.values())
