"""The image is built for real, entered, and serves jobs by its own entry point."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from e2e.pixels import decode
from fakes.waits import eventually
from image.buildah import Container, Entry
from image.conftest import ARGUMENTS, ROOT, Built
from pennyreel import Client
from pennyreel_comfy.install.pip import normal
from pennyreel_comfy.process import free_port
from pennyreel_emulators.runpod import EndpointConfig, PlatformConfig, RunPodPlatform

pytestmark = [pytest.mark.long, pytest.mark.image, pytest.mark.timeout(1800)]

MODELS = "/comfyui/comfy/models"
ON_VOLUME = "on_volume.safetensors"
START_S = 120.0

# As root, who may write: whatever was not compiled yet is compiled now.
COMPILED = """
count() { find /comfyui /opt/pennyreel -name '*.pyc' | wc -l; }
count
mkdir /tmp/u
/comfyui/venv/bin/python /comfyui/comfy/main.py --cpu --quick-test-for-ci \\
    --front-end-root /comfyui/web --database-url sqlite:///:memory: --user-directory /tmp/u
PENNYREEL_COMFYUI_ROOT=/nowhere python -m pennyreel_worker
python -c 'import pennyreel_worker.app, pennyreel_worker.handler, runpod'
count
"""
NODE = """
class Shout:
    CATEGORY, FUNCTION, RETURN_TYPES = "test", "shout", ("STRING",)
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"default": ""})}}
    def shout(self, text):
        return (text.upper(),)

NODE_CLASS_MAPPINGS = {"Shout": Shout}
"""


@contextlib.contextmanager
def platform() -> Iterator[RunPodPlatform]:
    """RunPod, emulated, that waits for a worker which somebody else starts."""
    with RunPodPlatform(PlatformConfig(endpoints={"ep": EndpointConfig()})) as running:
        yield running


def client(running: RunPodPlatform, home: Path) -> Client:
    return Client(
        backend="runpod",
        runpod_base_url=running.base_url,
        runpod_endpoint="ep",
        runpod_api_key=running.config.api_key,
        home=home,
    )


def worker_env(running: RunPodPlatform) -> dict[str, str]:
    """What RunPod sets, less the emulator's HOME: the image has one."""
    env = running.worker_environment("ep", "w1")
    return {name: value for name, value in env.items() if name != "HOME"}


def show(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with capsys.disabled():
        print(f"\n  image: {text}")  # noqa: T201 - the figures of docs/image.md


def test_it_is_built_from_the_dockerfile_and_is_not_large(
    built: Built, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = archive.stat().st_size
    show(capsys, f"built in {built.seconds:.0f} s, {size / 1e6:.0f} MB")
    assert 1e9 < size < 2.2e9


def test_no_layer_holds_what_the_build_was_lent(built: Built, archive: Path) -> None:
    marks = built.machine.marks
    assert marks[0] in built.machine.pip_conf.read_bytes()
    found = set()
    longest = max(map(len, marks))
    with archive.open("rb") as file:
        rest = b""
        while chunk := file.read(16 * 1024 * 1024):
            block = rest + chunk
            found |= {mark for mark in marks if mark in block}
            rest = block[-longest:]
    assert found == set()


def test_code_is_not_the_workers_to_change(container: Container) -> None:
    assert container.config["User"] == "10001:10001"
    places = [
        "/comfyui/comfy",
        "/comfyui/comfy/custom_nodes",
        "/comfyui/venv",
        "/opt/pennyreel/src",
    ]
    script = 'for p in "$@"; do test -w "$p" && echo "$p"; done; true'
    found = container.run("sh", "-c", script, "sh", *places, MODELS, f"{MODELS}/loras").stdout
    assert found.split() == [MODELS, f"{MODELS}/loras"]


def test_the_client_is_not_in_it(container: Container) -> None:
    source = container.root / "opt" / "pennyreel" / "src"
    assert {path.name for path in source.iterdir()} == {
        "pennyreel_comfy", "pennyreel_contract", "pennyreel_worker",
    }  # fmt: skip
    assert (source / "pennyreel_comfy" / "workflows" / "hello-video.json").is_file()


def test_a_change_of_the_client_rebuilds_nothing(built: Built) -> None:
    before = built.store.inspect(built.name)["FromImageID"]
    (built.context / "client" / "pennyreel" / "changed.py").write_text("CHANGED = 1\n")
    said = built.build(built.context, built.name, arguments=ARGUMENTS)
    assert "RUN" in said
    steps = [line for line in said.splitlines() if "STEP" in line and " FROM " not in line]
    assert said.count("Using cache") >= len(steps) - 2, said
    assert built.store.inspect(built.name)["FromImageID"] == before


def test_a_set_of_models_that_nobody_knows_fails_the_build_and_no_token_is_told(
    built: Built, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("hf_canary0123456789\n")
    said = built.build(
        built.context,
        "localhost/nonsense",
        arguments={**ARGUMENTS, "MODELS": "nonsense"},
        secrets=(f"id=hf_token,src={token}",),
        check=False,
    )
    assert "error[bad_request]" in said
    assert "nonsense" in said
    assert "animatediff" in said  # what there is
    assert "hf_canary" not in said


def test_no_cold_start_compiles_anything(container: Container) -> None:
    said = container.run("sh", "-c", COMPILED, user="root").stdout.splitlines()
    before, after = int(said[0]), int(said[-1])
    assert before > 3000
    assert after == before


def test_each_pinned_package_of_the_worker_is_there(container: Container) -> None:
    pins = (ROOT / "worker" / "image" / "requirements.txt").read_text("utf-8")
    wanted = {pin(line) for line in pins.splitlines() if not line.startswith("#")}
    said = container.run("pip", "list", "--format=json", "--disable-pip-version-check").stdout
    found = {pin(f"{one['name']}=={one['version']}") for one in json.loads(said)}
    assert wanted <= found
    assert {line.partition("==")[0] for line in found - wanted} <= {"pip", "setuptools"}


def pin(line: str) -> str:
    """Return a pin with the distribution's normal name."""
    name, _, version = line.partition("==")
    return f"{normal(name)}=={version}"


@pytest.fixture
def tiny(built: Built, context: Path) -> Path:
    """A checkpoint of random weights, made by the image's own ComfyUI."""
    models = context / "models"
    models.mkdir()
    program = context / "programs"
    shutil.copytree(ROOT / "tests" / "programs", program)
    with built.store.container(built.name) as container:
        container.run(
            *("/comfyui/venv/bin/python", "/mnt/make_tiny_models.py", "/comfyui/comfy", "sd15"),
            user="root",
            volumes=[f"{program}:/mnt:ro", f"{models}:{MODELS}"],
        )
    (made,) = (models / "checkpoints").iterdir()
    return made


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder on loopback; yields host and port."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def manifest(model: Path, host: str) -> str:
    """Return a manifest with this one checkpoint, in the set `mine`."""
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    return f"""
[[models]]
name = "{model.name}"
folder = "checkpoints"
url = "http://{host}/{model.name}"
sha256 = "{digest}"
bytes = {model.stat().st_size}
licence = "MIT"
sets = ["mine"]
"""


def test_with_a_pack_a_model_and_a_volume_it_serves_jobs_and_stops_when_told(
    built: Built,
    extended: Callable[..., str],
    context: Path,
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (context / "shout").mkdir()
    (context / "shout" / "__init__.py").write_text(NODE)
    (context / "shout" / "requirements.txt").write_text("colorama\n")
    (context / "shout" / "pyproject.toml").write_text('[project]\nversion = "1.4.2"\n')
    with serving(tiny.parent) as host:
        (context / "mine.toml").write_text(manifest(tiny, host))
        install = f"comfy-model-install mine --manifest /tmp/mine.toml --allow-host {host}"
        extended(
            "localhost/extended",
            [
                "USER root",
                "COPY shout /tmp/shout",
                "RUN --mount=type=secret,id=pip,target=/etc/pip.conf comfy-node-install /tmp/shout",
                "COPY mine.toml /tmp/mine.toml",
                f"RUN {install}",
                "USER 10001:10001",
            ],
        )
    volume = context / "volume"
    (volume / "checkpoints").mkdir(parents=True)
    tiny.chmod(0o644)  # safetensors writes for its user alone, and the worker is another one
    (volume / "checkpoints" / ON_VOLUME).hardlink_to(tiny)
    with (
        built.store.container("localhost/extended") as container,
        platform() as running,
        client(running, tmp_path / "home") as runpod,
    ):
        began = time.monotonic()
        mount = f"{volume}:/runpod-volume/models:ro"
        with container.started(worker_env(running), volumes=[mount]) as entry:
            eventually(lambda: container.healthy().returncode == 0, START_S)
            show(capsys, f"healthy {time.monotonic() - began:.1f} s after its start")
            assert entry.uids() == {10001}
            _serves(runpod, tiny.name, tmp_path / "out")
            assert "Shout" in _nodes(entry)
            assert "packs: shout 1.4.2;" in next(li for li in entry.log if " ready: " in li)
            _stops(entry, capsys)
        ill = container.healthy()
        assert ill.returncode == 1
        assert "does not run" in ill.stdout


def _serves(runpod: Client, checkpoint: str, out: Path) -> None:
    freely = {"allow_unknown_price": True, "timeout_s": 240}
    video = runpod.run("hello-video", parameters={"frames": 24}, out_dir=out, **freely)
    seen = decode(video.artifacts[0].path)
    assert (seen.codec, seen.width, seen.height, len(seen.frames)) == ("h264", 512, 288, 24)
    assert len(set(seen.frames)) == 24
    # The same weights under two names: in the image, and on the network volume.
    pictures = [
        runpod.run(
            "sd15-image",
            seed=seed,
            parameters={"checkpoint": name, "width": 64, "height": 64, "steps": 2},
            out_dir=out / f"{seed}-{name}",
            **freely,
        )
        for seed, name in ((11, checkpoint), (12, checkpoint), (11, ON_VOLUME))
    ]
    one, other, same = (decode(picture.artifacts[0].path) for picture in pictures)
    assert (one.width, one.height) == (64, 64)
    assert one == same
    assert one.frames != other.frames


def _nodes(entry: Entry) -> dict[str, Any]:
    """Ask the container's ComfyUI for its nodes."""
    (port,) = {
        argv[argv.index("--port") + 1] for argv in entry.processes().values() if "--port" in argv
    }
    answer = requests.get(f"http://127.0.0.1:{port}/object_info", timeout=30)
    found: dict[str, Any] = answer.json()
    return found


def _stops(entry: Entry, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    entry.terminate()
    assert entry.wait(40) == 0, entry.log[-20:]
    show(capsys, f"stopped {time.monotonic() - began:.1f} s after SIGTERM, exit code 0")
    assert entry.processes() == {}


def test_a_pack_that_cannot_be_imported_fails_the_build(
    extended: Callable[..., str], context: Path
) -> None:
    (context / "broken").mkdir()
    (context / "broken" / "__init__.py").write_text("import there_is_no_such_module\n")
    lines = ["USER root", "COPY broken /tmp/broken", "RUN comfy-node-install /tmp/broken"]
    said = extended("localhost/broken", lines, check=False)
    assert "ComfyUI cannot import all of its nodes" in said
    assert "No module named 'there_is_no_such_module'" in said
    assert "COMMIT" not in said


def test_who_may_not_write_there_is_told_what_a_dockerfile_needs(container: Container) -> None:
    done = container.run("comfy-node-install", "/tmp/x/y", check=False)
    assert done.returncode == 1
    assert "USER root" in done.stderr


def test_composes_command_serves_runpods_local_api(container: Container) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    command: Sequence[str] = compose["services"]["worker"]["command"]
    port = free_port()
    command = [str(port) if part == "8000" else part for part in command]
    body = {
        "input": {
            "contract": 1,
            "op": "run",
            "attempt_id": "compose-1",
            "template": "hello-video",
            "parameters": {"frames": 8},
        }
    }
    with container.started({}, command=command) as entry:
        eventually(lambda: _listens(port), START_S)
        answer = requests.post(f"http://127.0.0.1:{port}/runsync", json=body, timeout=200).json()
        assert answer["status"] == "COMPLETED", entry.log[-20:]
        (artifact,) = answer["output"]["artifacts"]
        assert artifact["kind"] == "video"
        assert artifact["data"]


def _listens(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/docs", timeout=2).status_code < 500
    except requests.RequestException:
        return False
