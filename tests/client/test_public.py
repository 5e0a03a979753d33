"""The package's face: sorted, lazy, light."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import pennyreel

HEAVY = (
    "runpod", "boto3", "botocore", "torch", "fastapi", "sqlalchemy", "rich", "moto", "aiohttp",
)  # fmt: skip


def loaded_after(code: str) -> set[str]:
    program = f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_every_public_name_is_there_and_the_list_is_sorted() -> None:
    assert sorted(pennyreel.__all__) == pennyreel.__all__
    for name in pennyreel.__all__:
        assert getattr(pennyreel, name) is not None
    assert set(pennyreel.__all__) <= set(dir(pennyreel))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = pennyreel.nonsense


def test_importing_pennyreel_imports_nothing_of_weight() -> None:
    loaded = loaded_after("import pennyreel")
    assert not loaded & {*HEAVY, "requests", "pydantic", "websocket", "click"}


def test_making_a_client_imports_no_http_library() -> None:
    loaded = loaded_after("import pennyreel; pennyreel.Client()")
    assert not loaded & {*HEAVY, "requests", "urllib3", "websocket", "click"}


@pytest.mark.parametrize(
    "code",
    [
        "from pennyreel.backends import comfyui, runpod",
        "import pennyreel; [getattr(pennyreel, n) for n in pennyreel.__all__]",
        "from pennyreel.cli.app import run; run(['--help'])",
        "from pennyreel.cli.app import run; run(['backends', '--json'])",
    ],
)
def test_nothing_heavy_is_imported_even_when_all_is_used(code: str) -> None:
    assert not loaded_after(code) & set(HEAVY)


def test_help_imports_no_command() -> None:
    loaded = loaded_after("from pennyreel.cli.app import run; run(['--help'])")
    assert not loaded & {"pennyreel.client", "pydantic", "requests"}
