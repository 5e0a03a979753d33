"""The stock worker's examples, by the true SDK loop, on the real ComfyUI, read by its clients.

Its models are random weights under the examples' names. What the stock worker itself answered to
the same requests is in data/stock_answers.json.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from pennyreel_comfy.install import Installation
from pennyreel_emulators.runpod import EndpointConfig, PlatformConfig, RunPodPlatform
from worker.stock_examples import CHECKPOINTS, EXAMPLES, OTHERS
from worker.support import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
ANSWERS = json.loads(Path(__file__).with_name("data").joinpath("stock_answers.json").read_text())
MAGIC = {".png": b"\x89PNG", ".webp": b"RIFF", ".mp4": b"\0\0\0"}
WORKER = (sys.executable, "-m", "pennyreel_worker")
FINAL = {"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"}


class StockClient:
    """What the stock worker's documentation tells its users to write: post, poll, decode, save."""

    def __init__(self, platform: RunPodPlatform, session: requests.Session) -> None:
        self.url = f"{platform.base_url}/work"
        self.headers = {"Authorization": f"Bearer {platform.config.api_key}"}
        self.session = session

    def runsync(self, given: object) -> dict[str, Any]:
        answer = self._call("POST", "runsync", {"input": given})
        # A job that takes longer is still in progress then, and is asked for.
        return answer if answer["status"] in FINAL else self.ended(str(answer["id"]))

    def run(self, given: object) -> dict[str, Any]:
        return self.ended(str(self._call("POST", "run", {"input": given})["id"]))

    def ended(self, job: str) -> dict[str, Any]:
        until(lambda: self._call("GET", f"status/{job}")["status"] in FINAL, 120)
        return self._call("GET", f"status/{job}")

    def save(self, answer: dict[str, Any], folder: Path) -> list[Path]:
        """Write all images; raise what went wrong, as such a client does."""
        if answer["status"] != "COMPLETED":
            raise RuntimeError(answer["error"])
        saved = []
        for number, image in enumerate(answer["output"]["images"]):
            assert image["type"] == "base64"
            path = folder / f"{number}-{image['filename']}"
            path.write_bytes(base64.b64decode(image["data"], validate=True))
            saved.append(path)
        return saved

    def _call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        with self.session.request(
            method, f"{self.url}/{path}", json=body, headers=self.headers, timeout=120
        ) as answer:
            answer.raise_for_status()
            return dict(answer.json())


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The real ComfyUI, with tiny weights under the names of the examples' checkpoints."""
    root = Path(os.environ.get("PENNYREEL_TEST_COMFYUI", ROOT / "build" / "comfyui"))
    found = Installation.load(root)
    assert found is not None, f"no ComfyUI in {root}; run `make test`, which installs it"
    maker = ROOT / "tests" / "programs" / "make_tiny_models.py"
    subprocess.run(
        [str(found.layout.python), str(maker), str(found.layout.comfy), "sd15"],
        check=True, env=found.env(), timeout=300, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    tiny = found.layout.comfy / "models" / "checkpoints" / "pennyreel_tiny_sd15.safetensors"
    folder = tmp_path_factory.mktemp("models")
    for name in CHECKPOINTS:
        (folder / name).symlink_to(tiny)
    paths = folder / "paths.yaml"
    paths.write_text(f"here:\n  base_path: {folder}\n  checkpoints: .\n")
    argv = found.command(0, extra=("--extra-model-paths-config", str(paths)))
    at = argv.index("--port")  # the worker chooses it
    return json.dumps([*argv[:at], *argv[at + 2 :]])


@pytest.fixture(scope="module")
def client(command: str) -> Iterator[StockClient]:
    passed = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    endpoint = EndpointConfig(
        command=WORKER,
        env={**passed, "PENNYREEL_COMFYUI_COMMAND": command},
        workers_max=1,
        idle_timeout_s=600,
    )
    with (
        RunPodPlatform(PlatformConfig(endpoints={"work": endpoint})) as platform,
        requests.Session() as session,
    ):
        session.trust_env = False
        yield StockClient(platform, session)


CASES = [
    *((name, EXAMPLES[name], ANSWERS["examples"][name]) for name in EXAMPLES),
    *((name, OTHERS[name], ANSWERS["others"][name]) for name in OTHERS),
]


@pytest.mark.parametrize("way", ["run", "runsync"])
@pytest.mark.parametrize(("given", "there"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_client_written_for_the_stock_worker_cannot_tell_the_difference(
    client: StockClient, tmp_path: Path, given: object, there: dict[str, Any], way: str
) -> None:
    answer = getattr(client, way)(given)
    if "error" in there:
        with pytest.raises(RuntimeError, match=re.escape(there["error"])) as raised:
            client.save(answer, tmp_path)
        assert str(raised.value).startswith(there["error"])
        if there["details"]:
            _begin(answer["output"]["details"], there["details"])
        return
    saved = client.save(answer, tmp_path)
    assert [p.name.partition("-")[2].rpartition("_0")[0] for p in saved] == there["files"]
    assert all(p.read_bytes().startswith(MAGIC[p.suffix]) for p in saved)
    assert answer["output"].get("status") == there.get("status")
    _begin(answer["output"].get("errors", []), there.get("errors", []))
    assert set(answer["output"]) <= {"images", "status", "errors"}


def _begin(told: list[str], there: list[str]) -> None:
    assert len(told) == len(there), told
    for line, begins in zip(told, there, strict=True):
        assert line.startswith(begins)


def test_every_recorded_answer_is_compared() -> None:
    assert set(ANSWERS["examples"]) == set(EXAMPLES)
    assert set(ANSWERS["others"]) == set(OTHERS)
