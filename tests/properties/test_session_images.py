"""Images that come by websocket alone, however often it breaks: whole, or told as lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.comfyui import FakeComfy, Prompt
from pennyreel_comfy.http import ComfyHttp
from pennyreel_comfy.session import Run, Session
from pennyreel_comfy.waiting import Deadline
from properties.steady import STEADY

_plan = st.fixed_dictionaries(
    {
        "steps": st.lists(st.sampled_from(["image", "image", "drop", "preview"]), max_size=6),
        "old": st.booleans(),  # pictures carry no ids, as from old servers
        "early": st.booleans(),  # /history is read before the last of them are
        "reopens": st.booleans(),
    }
)


async def script(fake: FakeComfy, prompt: Prompt) -> None:
    """Send what a SaveImageWebsocket node does: each image's number, then the image."""
    plan = json.loads(prompt.graph["1"]["inputs"]["plan"])
    many, number = plan["steps"].count("image"), 0
    await _open(fake, prompt)
    await fake.send(prompt, "execution_start")
    if plan["early"] and "drop" not in plan["steps"]:
        fake.finish(prompt)
        await _read(fake, prompt)
    for step in plan["steps"]:
        socket = fake.sockets.get(prompt.client)
        if step == "drop":
            await fake.drop(prompt)
            if plan["reopens"]:
                await _open(fake, prompt)
        elif step == "preview":
            await _send(socket, prompt, "2", b"a preview", None, plan["old"])
        else:
            number += 1
            steps_of_node = {"node": "1", "value": number, "max": many}
            await _send(socket, prompt, "1", _image(prompt, number), steps_of_node, plan["old"])
    await _open(fake, prompt)
    await fake.send(prompt, "execution_success")
    if prompt.id not in fake.history:
        fake.finish(prompt)


async def _open(fake: FakeComfy, prompt: Prompt) -> None:
    while prompt.client not in fake.sockets:
        await asyncio.sleep(0.001)


async def _read(fake: FakeComfy, prompt: Prompt) -> None:
    while ("GET", f"/history/{prompt.id}") not in fake.requests:
        await asyncio.sleep(0.001)


async def _send(
    socket: Any, prompt: Prompt, node: str, data: bytes, steps: dict[str, Any] | None, old: bool
) -> None:
    """On one and the same websocket, if it is open."""
    if socket is None or socket.closed:
        return
    about = {"prompt_id": prompt.id}
    with contextlib.suppress(ConnectionError):
        executing = {"type": "executing", "data": {**about, "node": node}}
        await socket.send_str(json.dumps(executing))
        if steps is not None:
            await socket.send_str(json.dumps({"type": "progress", "data": {**about, **steps}}))
        meta = json.dumps({**about, "node_id": node, "image_type": "image/png"}).encode()
        head = struct.pack(">II", 1, 2) if old else struct.pack(">II", 4, len(meta)) + meta
        await socket.send_bytes(head + data)


def _image(prompt: Prompt, number: int) -> bytes:
    return f"{prompt.id} {number}".encode()


@pytest.mark.timeout(300)
@settings(STEADY, max_examples=60)
@given(plans=st.lists(_plan, min_size=1, max_size=2))
def test_images_by_websocket_are_whole_or_told_as_lost(plans: list[dict[str, Any]]) -> None:
    with FakeComfy(script) as fake, Session(ComfyHttp(fake.url), poll_s=0.02) as session:
        runs = [session.submit(_graph(plan)) for plan in plans]
        for run, plan in zip(runs, plans, strict=True):
            run.wait(Deadline(30.0))
            _judge(run, plan, dropped=any("drop" in p["steps"] for p in plans))


def _graph(plan: dict[str, Any]) -> dict[str, Any]:
    said = {"plan": json.dumps(plan)}
    return {
        "1": {"class_type": "SaveImageWebsocket", "inputs": said},
        "2": {"class_type": "KSampler", "inputs": {}},
    }


def _judge(run: Run, plan: dict[str, Any], *, dropped: bool) -> None:
    sent = [f"{run.prompt_id} {n + 1}".encode() for n in range(plan["steps"].count("image"))]
    got = [image.data for image in run.images]
    assert {image.node for image in run.images} <= {"1"}, "a preview is no image"
    assert [data for data in sent if data in got] == got, "its own, in their order, each once"
    assert got == sent or run.images_lost
    assert dropped or not run.images_lost
