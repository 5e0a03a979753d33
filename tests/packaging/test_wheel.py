"""What a user installs: the wheel holds the code and its data, and works without the checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "pennyreel",
    "pennyreel_comfy",
    "pennyreel_contract",
    "pennyreel_emulators",
    "pennyreel_worker",
)
PROGRAM = """
from pennyreel_comfy import install, models, preflight, templates
import pennyreel, pennyreel_comfy
assert "site" in pennyreel_comfy.__file__, pennyreel_comfy.__file__
assert models.load().select(["all"])
assert preflight.check({"1": {"class_type": "ADE_LoadAnimateDiffModel", "inputs": {}}}, {})
print(*(t.name for t in templates.list_templates()))
print(install.plan(source="horde", device="cpu").comfyui_version)
"""


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_wheel_works_without_the_checkout(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
        timeout=200,
    )
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(site)
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == set(PACKAGES)
    for package in PACKAGES:
        assert f"{package}/py.typed" in names
    assert not [n for n in names if n.startswith(("tests", "docs", "bench"))]
    assert not [n for n in names if "workflows" in n and not n.endswith((".json", ".toml"))]
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    names_line, version = said.stdout.splitlines()
    assert {"animatediff-v3", "hello-video", "sd15-image", "sdxl-image"} <= set(names_line.split())
    assert version == "0.3.75"
