"""The files around the image agree with one another, and with those who read them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pennyreel_comfy.install.lock import read_lock
from pennyreel_contract import parse_request
from pennyreel_worker.settings import Settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
# What the client alone imports.
CLIENT_ONLY = {"alembic", "click", "platformdirs", "psutil", "rich", "sqlalchemy", "tomlkit"}
PINNED = re.compile(r"[\w-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def yaml_of(name: str) -> Any:
    return yaml.safe_load(read(name))


def lint(program: str, *files: str) -> str:
    """Run a linter that came by pip, beside this interpreter."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name(program)), *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr if done.returncode else ""


linux = pytest.mark.skipif(sys.platform != "linux", reason="the linters come for Linux")


@linux
def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    assert lint("hadolint", "--no-color", "Dockerfile") == ""


@linux
def test_hadolint_would_find_something(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM debian\nRUN apt-get install curl\n")
    assert "DL3006" in lint("hadolint", "--no-color", str(tmp_path / "Dockerfile"))


WORKFLOWS = sorted(path.name for path in (ROOT / ".github/workflows").iterdir())


@linux
@pytest.mark.parametrize("name", WORKFLOWS)
def test_actionlint_finds_nothing_in_the_workflows(name: str) -> None:
    assert lint("actionlint", "-no-color", f".github/workflows/{name}") == ""


@pytest.mark.parametrize("name", WORKFLOWS)
def test_actions_are_pinned_to_a_commit_that_says_its_version(name: str) -> None:
    uses = re.findall(r"(?m)^\s*- uses: (.+)$", read(f".github/workflows/{name}"))
    assert uses
    assert [one for one in uses if not PINNED.fullmatch(one)] == []
    jobs = yaml_of(f".github/workflows/{name}")["jobs"].values()
    checkouts = [s for job in jobs for s in job["steps"] if "checkout" in s.get("uses", "")]
    assert checkouts
    assert all(step["with"] == {"persist-credentials": False} for step in checkouts)


def test_a_pull_request_gets_no_secret_and_pushes_nothing() -> None:
    steps = yaml_of(".github/workflows/image.yml")["jobs"]["build"]["steps"]
    (build,) = (step["with"] for step in steps if "build-push-action" in step.get("uses", ""))
    assert build["secrets"].startswith("${{ github.event_name != 'pull_request' &&")
    assert build["push"] == "${{ github.event_name == 'push' }}"
    assert build["cache-to"].startswith("${{ github.event_name == 'push' &&")
    for action in ("login-action", "attest-build-provenance"):
        (step,) = (step for step in steps if action in step.get("uses", ""))
        assert step["if"] == "github.event_name == 'push'"


def test_the_base_image_is_pinned_by_tag_and_digest() -> None:
    (base,) = re.findall(r"(?m)^ARG BASE_IMAGE=(\S+)$", read("Dockerfile"))
    assert re.fullmatch(r"nvidia/cuda:[\w.-]+-base-ubuntu24\.04@sha256:[0-9a-f]{64}", base)


def test_what_is_copied_is_in_the_context_and_little_else() -> None:
    copied = {
        word.split("/")[0]
        for line in re.findall(r"(?m)^COPY (.+)$", read("Dockerfile"))
        if "--from" not in line
        for word in line.split()[:-1]
        if not word.startswith("--")
    }
    ignore = read(".dockerignore").splitlines()
    let_in = {line.strip("!/") for line in ignore if line.startswith("!")}
    assert "*" in ignore
    assert copied == let_in == {"LICENSE", "worker", "workflows"}


def test_every_argument_of_the_build_is_documented_with_its_default() -> None:
    page = read("docs/image.md")
    found = re.findall(r"(?m)^ARG (\w+)=(\S+)$", read("Dockerfile"))
    assert {name for name, _ in found} == {
        "BASE_IMAGE", "TORCH", "COMFYUI_SOURCE", "NODES", "MODELS", "VERSION",
    }  # fmt: skip
    for name, default in found:
        assert f"| `{name}` | `{default.partition('@')[0]}` |" in page


def test_the_workers_packages_are_pinned_and_fit_what_the_project_asks_for() -> None:
    lines = [line for line in read("worker/image/requirements.txt").splitlines() if line[0] != "#"]
    pins = {canonicalize_name(name): version for name, version in (x.split("==") for x in lines)}
    assert len(pins) == len(lines)
    project = tomllib.loads(read("pyproject.toml"))["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["worker"]]
    for requirement in map(Requirement, asked):
        name = canonicalize_name(requirement.name)
        if name in CLIENT_ONLY or (requirement.marker and name == "tomli"):
            continue
        assert requirement.specifier.contains(pins[name]), requirement


def test_where_both_environments_have_a_package_they_have_one_version() -> None:
    lines = [line for line in read("worker/image/requirements.txt").splitlines() if line[0] != "#"]
    ours = {canonicalize_name(name): version for name, version in (x.split("==") for x in lines)}
    for pin in read_lock().requirements.pins:
        requirement = Requirement(pin)
        name = canonicalize_name(requirement.name)
        marker = requirement.marker
        if name in ours and (marker is None or marker.evaluate({"python_version": "3.12"})):
            assert requirement.specifier.contains(ours[name]), requirement


def test_compose_publishes_on_loopback_alone_and_gives_the_gpu() -> None:
    worker = yaml_of("docker-compose.yml")["services"]["worker"]
    assert [port.split(":")[0] for port in worker["ports"]] == ["127.0.0.1"]
    assert set(worker["build"]["args"]) <= set(re.findall(r"(?m)^ARG (\w+)", read("Dockerfile")))
    assert all("/runpod-volume/models" in volume for volume in worker["volumes"])
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert int(worker["stop_grace_period"].removesuffix("s")) > Settings().drain_s
    known = read("worker/pennyreel_worker/settings.py")
    assert [name for name in worker["environment"] if f'"{name}"' not in known] == []


# RunPod's Hub publishing guide, as its tables give the fields.
HUB = {
    "title": str, "description": str, "type": str, "category": str, "config": dict,
}  # fmt: skip
HUB_CONFIG = {
    "runsOn": str, "containerDiskInGb": int, "gpuCount": int, "gpuIds": str,
    "allowedCudaVersions": list, "env": list,
}  # fmt: skip
HUB_INPUTS = {
    "string": {"name", "type", "description", "default", "advanced", "options"},
    "number": {"name", "type", "description", "default", "advanced", "min", "max"},
    "boolean": {"name", "type", "description", "default", "advanced", "trueValue", "falseValue"},
}


def shaped(data: dict[str, Any], shape: dict[str, type]) -> None:
    assert {name: type(value) for name, value in data.items()} == shape


def test_the_hubs_listing_has_the_fields_that_runpod_documents() -> None:
    hub = json.loads(read(".runpod/hub.json"))
    shaped(hub, HUB)
    shaped(hub["config"], HUB_CONFIG)
    assert hub["type"] == "serverless"
    assert hub["category"] in {"audio", "embedding", "language", "video", "image"}
    assert hub["config"]["runsOn"] == "GPU"
    for variable in hub["config"]["env"]:
        assert set(variable) == {"key", "input"}
        asked = variable["input"]
        assert set(asked) <= HUB_INPUTS[asked["type"]]
        assert {"name", "description", "default"} <= set(asked)
        if "options" in asked:
            assert asked["default"] in [option["value"] for option in asked["options"]]


def test_the_hubs_settings_are_the_workers_and_its_defaults_are_accepted() -> None:
    variables = json.loads(read(".runpod/hub.json"))["config"]["env"]
    known = read("worker/pennyreel_worker/settings.py")
    env = {}
    for variable in variables:
        assert f'"{variable["key"]}"' in known
        default = variable["input"]["default"]
        env[variable["key"]] = str(default).lower() if isinstance(default, bool) else str(default)
    assert Settings.from_env(env) == Settings()


def test_the_hubs_tests_are_requests_that_the_worker_understands() -> None:
    tests = json.loads(read(".runpod/tests.json"))
    shaped(tests, {"tests": list, "config": dict})
    shaped(tests["config"], {"gpuTypeId": str, "gpuCount": int, "allowedCudaVersions": list})
    for test in tests["tests"]:
        shaped(test, {"name": str, "input": dict, "timeout": int})
        parse_request(test["input"])
    templates = [t["input"]["template"] for t in tests["tests"] if "template" in t["input"]]
    assert [name for name in templates if not (ROOT / "workflows" / f"{name}.json").exists()] == []


def test_the_hub_finds_the_files_that_it_asks_for() -> None:
    for name in (".runpod/handler.py", "Dockerfile", "README.md"):
        assert (ROOT / name).is_file()
