"""Servers for a machine full of canaries: some that quote all they are told, and the emulations."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest

from client.support import LOADING, Reply, Request, Scripted, artifact
from e2e.canaries import OWNERS, Machine
from fakes.comfyui import FakeComfy
from pennyreel.config import FIELDS
from pennyreel_emulators.google import GoogleApis, GoogleConfig
from pennyreel_emulators.huggingface import HubConfig, HuggingFace
from pennyreel_emulators.replicate import Config, ReplicatePlatform

PROMPT = "a paper boat in the rain"
BACKENDS = ("comfyui", "runpod", "replicate", "gemini", "veo", "huggingface")
FREELY = ("--max-cost", "9", "--day-limit", "500", "--allow-unknown-price", "--allow-slow")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")


class Servers:
    """A scripted server at every address that can be set, and one that no key may reach."""

    def __init__(self, machine: Machine, stack: ExitStack) -> None:
        self.machine = machine
        urls = [name for name, one in FIELDS.items() if one.kind == "url"]
        self.by = {name: stack.enter_context(Scripted(echo)) for name in urls}
        self.elsewhere = stack.enter_context(Scripted(echo))
        for name, server in self.by.items():
            machine.env[FIELDS[name].env] = server.url
        machine.env["PENNYREEL_S3_BUCKET"] = "bucket"

    def play(self, script: Callable[[Request], Reply | None]) -> None:
        for server in self.by.values():
            server.script = script

    def strangers(self) -> dict[str, set[str]]:
        """What a server was told that is not its own."""
        found = {"elsewhere": self.machine.canaries.in_requests(self.elsewhere.requests)}
        for name, server in self.by.items():
            own = [secret for secret, owners in OWNERS.items() if name in owners]
            found[name] = self.machine.canaries.in_requests(server.requests, but=own)
        return {name: hits for name, hits in found.items() if hits}


@pytest.fixture
def servers(machine: Machine) -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(machine, stack)


def echo(request: Request, status: int = 400) -> Reply:
    """Quote the whole request, in each of the forms in which APIs tell what is wrong."""
    sent = request.body.decode("utf-8", "replace")
    told = f"{request.method} {request.path} {request.headers} {sent}"
    body = {"error": {"message": told, "status": "X"}, "detail": told, "message": told}
    flat = {**body, "error": told}
    headers = {"X-Told": quote(told)[:4000], "Retry-After": "0"}
    return Reply(status, body if "goog" in str(request.headers).lower() else flat, headers)


def each(jobs: list[tuple[str, ...]], machine: Machine) -> None:
    """Run commands, a few at a time."""
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda args: machine.run(*args), jobs))


def generate(backend: str, *more: str) -> tuple[str, ...]:
    return ("generate", PROMPT, "--backend", backend, *FREELY, *more)


def assert_clean(machine: Machine, **options: tuple[str, ...]) -> None:
    assert machine.ran
    assert machine.leaks(**options) == {}


@pytest.fixture
def world(machine: Machine) -> Iterator[Machine]:
    """The emulations, each with its canary for a key."""
    env, stack = machine.env, ExitStack()
    with stack:
        google = stack.enter_context(
            GoogleApis(
                GoogleConfig(
                    api_key=env["GEMINI_API_KEY"], access_tokens=(env["PENNYREEL_VERTEX_TOKEN"],)
                )
            )
        )
        replicate = stack.enter_context(ReplicatePlatform(Config(token=env["REPLICATE_API_TOKEN"])))
        hub = stack.enter_context(HuggingFace(HubConfig(token=env["HF_TOKEN"])))
        comfy = stack.enter_context(FakeComfy())
        runpod = stack.enter_context(Scripted(worker))
        for name in ("GOOGLE_GEMINI_BASE_URL", "GOOGLE_VERTEX_BASE_URL"):
            env[name] = google.base_url
        env["PENNYREEL_VERTEX_STORAGE_URL"] = google.base_url
        env["REPLICATE_BASE_URL"] = replicate.base_url
        env["HF_ENDPOINT"] = env["PENNYREEL_HF_ROUTER_URL"] = hub.url
        env["PENNYREEL_COMFYUI_URL"] = comfy.url
        env["RUNPOD_ENDPOINT_BASE_URL"] = env["PENNYREEL_RUNPOD_API_URL"] = runpod.url
        env["PENNYREEL_ALERT_WEBHOOK"] = f"{runpod.url}/{machine.canaries.plant('alert_webhook')}"
        env["PENNYREEL_ALERT_HOSTS"] = runpod.url.removeprefix("http://")
        machine.google, machine.runpod = google, runpod  # type: ignore[attr-defined]
        yield machine


def worker(request: Request) -> Reply:
    """A RunPod whose worker is quick, and its catalogue of prices."""
    if request.path.endswith("/run"):
        job = request.json["input"]
        worker.attempt = job["attempt_id"]  # type: ignore[attr-defined]
        return Reply(200, {"id": "job-1", "status": "IN_QUEUE"})
    if "/status/" in request.path:
        made = {
            "contract": 1,
            "attempt_id": getattr(worker, "attempt", ""),
            "artifacts": [artifact("clip.png", b"\x89PNG made")],
            "timings": {"execute": 1.0},
            "gpu": {"name": "RTX 4090", "type": "cuda", "seconds": 1.0},
        }
        return Reply(200, {"id": "job-1", "status": "COMPLETED", "output": made})
    if request.path.endswith("/catalog/gpus"):
        price = {"secure": 0.4, "community": 0.2, "serverless": 0.69}
        gpu = {"id": "g", "name": "RTX 3090", "pool": "AMPERE_24", "price": price, "secure": True}
        return Reply(200, {"gpus": [gpu]})
    return Reply(200, {"jobs": {}, "workers": {"idle": 1}})


@pytest.fixture
def bucket() -> Iterator[Scripted]:
    with Scripted(lambda _: Reply(200, b"\x89PNG\r\n\x1a\n")) as running:
        yield running


def signed(world: Machine, bucket: Scripted) -> tuple[str, ...]:
    """Run a graph on an input whose address holds a password and a signature."""
    graph = world.folder / "graph.json"
    graph.write_text(json.dumps(LOADING))
    password = quote(world.canaries.plant("password"), safe="")
    signature = quote(world.canaries.plant("signature"), safe="")
    host = bucket.url.removeprefix("http://")
    url = f"http://user:{password}@{host}/in.png?X-Amz-Signature={signature}"
    return ("run", str(graph), "--input", f"photo={url}", "--backend", "comfyui", *FREELY)
