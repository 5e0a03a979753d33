"""A scripted ComfyUI server: every order of events that the real one has, and worse ones.

In a test: `with FakeComfy(script) as fake: Session(ComfyHttp(fake.url))`. The script is a coroutine
that plays one prompt. As a program it is a child for the supervisor and the worker:

    python comfyui.py --port N --output-directory DIR …

Its nodes: SaveImage writes a small PNG; FakeSleep{seconds}, FakeError, FakeCrash, FakeMemory and
FakeBig{bytes} do what their names say. FakeStuck{seconds} cannot be interrupted.
FakeOutput{filename, type, key, filename_prefix} names a file of any kind, FakeText{text} a text,
FakeNothing is an output node that shows nothing. LoadImage is refused where its file is missing.
CheckpointLoaderSimple offers the files in checkpoints; as a program it offers those in `models`
beside it, and has the classes that `custom_nodes/PACK/classes.json` named when it was started.
FakeError, FakeCrash and FakeMemory take `log`, a file to which they add a line each time, and
`times`, after which they do well; FakePaid{log} is an API node that crashes.

GET /fake tells what was asked of it: prompts, interrupts, requests, and the ids in /history.
Environment, as a program: FAKE_COMFYUI_START_S delays the first answer.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import struct
import sys
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

from aiohttp import WSMsgType, web
from typing_extensions import Self

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC"
)
CLASSES = {
    "SaveImage", "LoadImage", "EmptyImage", "KSampler", "ImageScale", "SaveImageWebsocket",
    "FakeSleep", "FakeError", "FakeCrash", "FakeMemory", "FakeBig", "FakeStuck", "FakeOutput",
    "FakeText", "FakeNothing", "FakePaid", "FakeEcho",
}  # fmt: skip

LOADER = "CheckpointLoaderSimple"
"""Offers what lies in checkpoints, and plays no part in a run."""

Script = Callable[["FakeComfy", "Prompt"], Awaitable[None]]


class Prompt:
    """One queued prompt."""

    def __init__(self, body: dict[str, Any], number: int) -> None:
        self.id = str(body.get("prompt_id") or uuid.uuid4())
        self.graph: dict[str, Any] = body["prompt"]
        self.client = str(body.get("client_id", ""))
        self.extra = body.get("extra_data") or {}
        self.number = number
        self.interrupted = asyncio.Event()
        self.outputs: dict[str, Any] = {}

    def row(self) -> list[Any]:
        return [self.number, self.id, self.graph, {}, []]


class FakeComfy:
    """The server, in a thread of its own."""

    def __init__(
        self,
        script: Script | None = None,
        *,
        port: int = 0,
        output: Path | None = None,
        inputs: Path | None = None,
        temp: Path | None = None,
        jobs_api: bool = False,
    ) -> None:
        self.script = script or play
        self.temp = temp
        self.output = output
        self.inputs = inputs
        self.jobs_api = jobs_api
        self.pending: list[Prompt] = []
        self.running: Prompt | None = None
        self.history: dict[str, Any] = {}
        self.sockets: dict[str, web.WebSocketResponse] = {}
        self.requests: list[tuple[str, str]] = []
        self.prompts: list[Prompt] = []
        self.interrupts: list[str | None] = []
        self.freed: list[dict[str, Any]] = []
        self.device = "cpu"
        self.version = "0.0-fake"
        self.connections = 0
        self.answer_prompt: Callable[[dict[str, Any]], web.Response | None] = lambda _: None
        self.refuse_sockets = False
        self.absent = 0
        """So many readings of /history are answered with 503 from now on."""
        self.info: dict[str, Any] = {}
        """More node classes, as /object_info tells them; see `loader`."""
        self.models: dict[str, list[str]] = {
            "checkpoints": ["fake.safetensors"],
            "configs": ["v1-inference.yaml"],
            "custom_nodes": ["pack/__init__.py"],
        }
        """What lies in each folder of models."""
        self.models_root: Path | None = None
        """A real folder of models instead, looked at anew each time."""
        self.cut_prompt: Literal["taken", "lost"] | None = None
        """Cut the connection of the next POST /prompt, after or before taking it."""
        self._port = port
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="fake-comfyui")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    # What scripts use.

    async def send(self, prompt: Prompt, kind: str, **data: Any) -> None:
        await self.send_raw(
            prompt.client, json.dumps({"type": kind, "data": {"prompt_id": prompt.id, **data}})
        )

    async def send_raw(self, client: str, message: str | bytes) -> None:
        socket = self.sockets.get(client)
        if socket is None or socket.closed:
            return
        with contextlib.suppress(ConnectionError):  # it leaves now: the real one goes on, too
            if isinstance(message, bytes):
                await socket.send_bytes(message)
            else:
                await socket.send_str(message)

    async def drop(self, prompt: Prompt) -> None:
        """Cut the client's websocket without a word."""
        socket = self.sockets.pop(prompt.client, None)
        if socket is not None and socket._req is not None and socket._req.transport is not None:
            socket._req.transport.abort()

    def finish(
        self, prompt: Prompt, status: str = "success", messages: list[Any] | None = None
    ) -> None:
        """Move the prompt from the queue to /history, at once, as the real one does."""
        self.history[prompt.id] = {
            "prompt": prompt.row(),
            "outputs": prompt.outputs,
            "status": {
                "status_str": status,
                "completed": status == "success",
                "messages": messages or [],
            },
        }
        if self.running is prompt:
            self.running = None

    def write(self, prompt: Prompt, node: str, content: bytes, ending: str = "png") -> None:
        """Write an output file as SaveImage would: never over another one."""
        prefix = str(prompt.graph[node]["inputs"].get("filename_prefix", "fake"))
        folder, _, stem = prefix.rpartition("/")
        number = len(prompt.outputs) + 1
        while (
            self.output is not None
            and (self.output / folder / _name(stem, number, ending)).exists()
        ):
            number += 1
        name = _name(stem, number, ending)
        if self.output is not None:
            (self.output / folder).mkdir(parents=True, exist_ok=True)
            (self.output / folder / name).write_bytes(content)
        prompt.outputs[node] = {
            "images": [{"filename": name, "subfolder": folder, "type": "output"}]
        }

    # The server.

    def _run(self) -> None:
        asyncio.run(self.serve())

    async def serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._wake = asyncio.Event()
        app = web.Application(client_max_size=1 << 30, middlewares=[self._note])
        app.add_routes(
            [
                web.get("/ws", self._ws),
                web.get("/fake", self._fake),
                web.post("/prompt", self._prompt),
                web.get("/queue", self._queue),
                web.post("/queue", self._queue_post),
                web.get("/history/{id}", self._history),
                web.post("/history", self._history_post),
                web.post("/interrupt", self._interrupt),
                web.post("/free", self._free),
                web.post("/upload/image", self._upload),
                web.get("/view", self._view),
                web.get("/system_stats", self._stats),
                web.get("/models", self._models),
                web.get("/models/{folder}", self._models),
                web.get("/object_info", self._object_info),
                web.get("/object_info/{name}", self._object_info),
                web.post("/api/jobs/{id}/cancel", self._cancel),
            ]
        )
        runner = web.AppRunner(app, shutdown_timeout=0.2)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self._port)
        await site.start()
        self._port = runner.addresses[0][1]
        worker = asyncio.create_task(self._work())
        self._ready.set()
        try:
            await self._stop.wait()
        finally:
            worker.cancel()
            await site.stop()  # first: clients reconnect at once
            for socket in list(self.sockets.values()):
                await socket.close()
            await runner.cleanup()
            for _ in range(5):  # let the transports close before the loop does
                await asyncio.sleep(0)

    @web.middleware
    async def _note(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        if self.absent and request.method == "GET" and request.path.startswith("/history/"):
            self.absent -= 1
            return web.Response(status=503)
        return await handler(request)

    async def _work(self) -> None:
        while True:
            while not self.pending:
                self._wake.clear()
                await self._wake.wait()
            prompt = self.running = self.pending.pop(0)
            await self.script(self, prompt)
            if self.running is prompt:
                self.running = None

    async def _ws(self, request: web.Request) -> web.StreamResponse:
        if self.refuse_sockets:
            return web.Response(status=503)
        self.connections += 1
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        client = request.query["clientId"]
        self.sockets[client] = socket
        status = {"status": {"exec_info": {"queue_remaining": 0}}, "sid": client}
        await socket.send_json({"type": "status", "data": status})
        async for message in socket:
            if message.type in (WSMsgType.CLOSE, WSMsgType.ERROR):
                break
        return socket

    async def _prompt(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        cut, self.cut_prompt = self.cut_prompt, None
        if cut is not None:
            assert request.transport is not None
            request.transport.abort()
        if cut == "lost":
            return web.Response()
        if (answer := self.answer_prompt(body)) is not None:
            return answer
        graph = body["prompt"]
        if not graph:
            return web.json_response(
                {
                    "error": {"type": "prompt_no_outputs", "message": "no outputs"},
                    "node_errors": {},
                },
                status=400,
            )
        for node, value in graph.items():
            if value.get("class_type") not in {*CLASSES, *self.info, LOADER}:
                message = f"Cannot execute because node {value.get('class_type')} does not exist."
                problem = {
                    "type": "invalid_prompt",
                    "message": message,
                    "details": f"Node ID '#{node}'",
                }
                return web.json_response({"error": problem, "node_errors": {}}, status=400)
        if (missing := self._missing_files(graph)) is not None:
            return missing
        prompt = Prompt(body, len(self.prompts))
        self.prompts.append(prompt)
        self.pending.append(prompt)
        self._wake.set()
        return web.json_response(
            {"prompt_id": prompt.id, "number": prompt.number, "node_errors": {}}
        )

    def _missing_files(self, graph: dict[str, Any]) -> web.Response | None:
        """Refuse a graph as the real one does (recording bad_*: custom_validation_failed)."""
        for node, value in graph.items():
            name = str(value["inputs"].get("image"))
            if value["class_type"] != "LoadImage" or self.inputs is None:
                continue
            if (self.inputs / name.removesuffix(" [input]")).is_file():
                continue
            problem = {
                "type": "custom_validation_failed",
                "message": "Custom validation failed for node",
                "details": f"image - Invalid image file: {name}",
                "extra_info": {"input_name": "image", "received_value": name},
            }
            entry = {"errors": [problem], "dependent_outputs": [node], "class_type": "LoadImage"}
            outer = {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed"}
            return web.json_response({"error": outer, "node_errors": {node: entry}}, status=400)
        return None

    async def _fake(self, _: web.Request) -> web.Response:
        prompts = [{"id": p.id, "graph": p.graph, "extra": p.extra} for p in self.prompts]
        return web.json_response(
            {
                "prompts": prompts,
                "interrupts": self.interrupts,
                "history": list(self.history),
                "running": self.running.id if self.running else None,
                "requests": self.requests,
                "freed": self.freed,
                "pid": os.getpid(),
            }
        )

    async def _queue(self, _: web.Request) -> web.Response:
        running = [self.running.row()] if self.running else []
        return web.json_response(
            {"queue_running": running, "queue_pending": [p.row() for p in self.pending]}
        )

    async def _queue_post(self, request: web.Request) -> web.Response:
        ids = (await request.json()).get("delete", [])
        self.pending = [p for p in self.pending if p.id not in ids]
        return web.Response()

    async def _history(self, request: web.Request) -> web.Response:
        wanted = request.match_info["id"]
        return web.json_response({wanted: self.history[wanted]} if wanted in self.history else {})

    async def _history_post(self, request: web.Request) -> web.Response:
        for wanted in (await request.json()).get("delete", []):
            self.history.pop(wanted, None)
        return web.Response()

    async def _interrupt(self, request: web.Request) -> web.Response:
        wanted = (await request.json()).get("prompt_id") if request.can_read_body else None
        self.interrupts.append(wanted)
        if self.running is not None and wanted in (None, self.running.id):
            self.running.interrupted.set()
        return web.Response()

    async def _cancel(self, request: web.Request) -> web.Response:
        if not self.jobs_api:
            return web.Response(status=404, text="404: Not Found")
        wanted = request.match_info["id"]
        self.pending = [p for p in self.pending if p.id != wanted]
        if self.running is not None and self.running.id == wanted:
            self.running.interrupted.set()
        return web.json_response({"cancelled": True})

    async def _free(self, request: web.Request) -> web.Response:
        self.freed.append(await request.json())
        return web.Response()

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        image, folder = form["image"], str(form.get("subfolder", ""))
        assert isinstance(image, web.FileField)
        if self.inputs is not None:
            (self.inputs / folder).mkdir(parents=True, exist_ok=True)
            (self.inputs / folder / image.filename).write_bytes(image.file.read())
        return web.json_response({"name": image.filename, "subfolder": folder, "type": "input"})

    async def _view(self, request: web.Request) -> web.StreamResponse:
        if self.output is None:
            return web.Response(body=PNG, content_type="image/png")
        path = self.output / request.query.get("subfolder", "") / request.query["filename"]
        return web.FileResponse(path) if path.is_file() else web.Response(status=404)

    async def _stats(self, _: web.Request) -> web.Response:
        system: dict[str, Any] = {
            "comfyui_version": self.version, "pytorch_version": "none", "python_version": "3",
            "argv": sys.argv,
        }  # fmt: skip
        device = {"name": "fake", "type": self.device, "vram_total": 1 << 30}
        return web.json_response({"system": system, "devices": [device]})

    async def _models(self, request: web.Request) -> web.Response:
        folder, models = request.match_info.get("folder"), self._listed()
        if folder is not None and folder not in models:
            return web.Response(status=404)
        return web.json_response(list(models) if folder is None else models[folder])

    def _listed(self) -> dict[str, list[str]]:
        if self.models_root is None:
            return self.models
        folders = [path for path in self.models_root.iterdir() if path.is_dir()]
        return {f.name: sorted(p.name for p in f.iterdir()) for f in folders}

    async def _object_info(self, request: web.Request) -> web.Response:
        found = {name: _described(name) for name in sorted(CLASSES)} | self.info
        found = loader(LOADER, "ckpt_name", self._listed().get("checkpoints", [])) | found
        root = self.inputs
        files = [str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()] if root else []
        upload = [sorted(files), {"image_upload": True}]
        found["LoadImage"]["input"]["required"] = {"image": upload}
        name = request.match_info.get("name")
        if name is not None:
            found = {name: found[name]} if name in found else {}
        return web.json_response(found)


def _name(stem: str, number: int, ending: str) -> str:
    return f"{stem}_{number:05}_.{ending}"


def loader(name: str, input_name: str, files: list[str]) -> dict[str, Any]:
    """One of ComfyUI's own classes that loads one of these files, for `FakeComfy.info`."""
    info = {**_described(name), "python_module": "nodes"}
    info["input"] = {"required": {input_name: [files, {}]}, "optional": {}}
    return {name: info}


def _described(name: str) -> dict[str, Any]:
    """One class as /object_info tells it: here every node may stand alone, so all are outputs."""
    return {
        "name": name,
        "input": {"required": {}, "optional": {}},
        "output": ["*"],
        "output_node": True,
        "python_module": "nodes" if not name.startswith("Fake") else "custom_nodes.fake",
        "api_node": name == "FakePaid",
    }


async def play(fake: FakeComfy, prompt: Prompt) -> None:
    """Play a prompt as the real one does: every message of a good run, in its order."""
    await fake.send(prompt, "execution_start")
    await fake.send(prompt, "execution_cached", nodes=[])
    for node, value in prompt.graph.items():
        await fake.send(prompt, "executing", node=node)
        problem = await _node(fake, prompt, node, value)
        if problem is not None:
            fake.finish(prompt, "error", [problem])
            kind, data = problem
            await fake.send(prompt, kind, **{k: v for k, v in data.items() if k != "prompt_id"})
            await fake.send(prompt, "executing", node=None)
            return
        state = {"value": 1, "max": 1, "state": "finished"}
        await fake.send(prompt, "progress_state", nodes={node: state})
    await fake.send(prompt, "execution_success")
    fake.finish(prompt)
    await fake.send(prompt, "executing", node=None)


async def _node(fake: FakeComfy, prompt: Prompt, node: str, value: dict[str, Any]) -> Any:
    kind, inputs = value["class_type"], value.get("inputs", {})
    where = {"prompt_id": prompt.id, "node_id": node, "node_type": kind}
    if kind in {"FakeCrash", "FakePaid"} and _fails(inputs):
        sys.stdout.write(f"the last words of node {node}\n")
        sys.stdout.flush()
        os._exit(9)
    if kind == "FakeEcho":  # as a node that prints the key it was given
        sys.stdout.write(f"key: {prompt.extra.get('api_key_comfy_org')}\n")
        sys.stdout.flush()
    if kind == "FakeError" and inputs.get("tell"):
        told = f"401 for {prompt.extra.get('api_key_comfy_org')}"
        return ["execution_error", {**where, "exception_type": "E", "exception_message": told}]
    if kind in {"FakeError", "FakeMemory"} and _fails(inputs):
        name = "torch.OutOfMemoryError" if kind == "FakeMemory" else "ValueError"
        return ["execution_error", {**where, "exception_type": name, "exception_message": "boom"}]
    if kind == "FakeSleep":
        steps = 20
        for step in range(steps):
            await fake.send(prompt, "progress", node=node, value=step, max=steps)
            try:
                await asyncio.wait_for(prompt.interrupted.wait(), float(inputs["seconds"]) / steps)
            except asyncio.TimeoutError:
                continue
            return ["execution_interrupted", where]
    if kind == "FakeStuck":
        await asyncio.sleep(float(inputs["seconds"]))
    if prompt.interrupted.is_set():
        return ["execution_interrupted", where]
    await _show(fake, prompt, node, value)
    return None


def _fails(inputs: dict[str, Any]) -> bool:
    """Whether the fault is to happen now; it is written down where a file for that is named."""
    if "log" not in inputs:
        return True
    with Path(inputs["log"]).open("a+", encoding="utf-8") as log:
        log.write(f"{' '.join(sys.argv)}\n")
        log.seek(0)
        return len(log.readlines()) <= int(inputs.get("times", 1 << 30))


async def _show(fake: FakeComfy, prompt: Prompt, node: str, value: dict[str, Any]) -> None:
    """Do what an output node does."""
    kind, inputs = value["class_type"], value.get("inputs", {})
    if kind == "SaveImage":
        fake.write(prompt, node, PNG)
    if kind == "FakeOutput":
        _output(fake, prompt, node, inputs)
    if kind == "SaveImageWebsocket":
        # PREVIEW_IMAGE, PNG: in no file and not in /history.
        await fake.send_raw(prompt.client, struct.pack(">II", 1, 2) + PNG)
    if kind == "FakeText":
        prompt.outputs[node] = {"text": [inputs["text"]]}
    if kind == "FakeBig":
        fake.write(prompt, node, os.urandom(1 << 20) * (int(inputs["bytes"]) >> 20), "bin")


def _output(fake: FakeComfy, prompt: Prompt, node: str, inputs: dict[str, Any]) -> None:
    kind, name = str(inputs.get("type", "output")), str(inputs["filename"])
    root = fake.temp if kind == "temp" else fake.output
    folder = str(inputs.get("filename_prefix", "")).rpartition("/")[0]
    if root is not None and inputs.get("written", True):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / name).write_bytes(PNG)
    if "says" in inputs:  # as a node that names what the graph has it name
        folder, name = "", str(inputs["says"])
    item = {"filename": name, "subfolder": folder, "type": kind}
    prompt.outputs[node] = {str(inputs.get("key", "images")): [item]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--output-directory", type=Path)
    parser.add_argument("--input-directory", type=Path)
    parser.add_argument("--temp-directory", type=Path)
    parser.add_argument("--device", default="cpu")
    options, _ = parser.parse_known_args()
    temp = options.temp_directory
    fake = FakeComfy(
        port=options.port,
        output=options.output_directory,
        inputs=options.input_directory,
        temp=temp / "temp" if temp else None,
    )
    fake.device = options.device
    beside = Path(__file__).with_name("models")
    fake.models_root = beside if beside.is_dir() else None
    for pack in Path(__file__).parent.glob("custom_nodes/*/classes.json"):
        fake.info |= {name: _described(name) for name in json.loads(pack.read_text())}
    time.sleep(float(os.environ.get("FAKE_COMFYUI_START_S", "0")))
    asyncio.run(fake.serve())


if __name__ == "__main__":
    main()
