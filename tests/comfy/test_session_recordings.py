"""Every recorded run of a real ComfyUI, played again to a session by a fake server."""

from __future__ import annotations

import asyncio
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from fakes.comfyui import FakeComfy, Prompt
from pennyreel_comfy import events
from pennyreel_comfy.http import ComfyHttp
from pennyreel_comfy.outputs import collect
from pennyreel_comfy.session import Session
from pennyreel_comfy.tracker import Position, Tracker
from pennyreel_comfy.waiting import Deadline
from pennyreel_contract import PennyreelError

HERE = Path(__file__).parent / "recordings"
ALL = sorted(p for p in HERE.glob("v*/*.json") if '"prompt_reply"' in p.read_text()[:4_000_000])
RUNS = [p for p in ALL if json.loads(p.read_text())["history"]]
REFUSED = [p for p in ALL if json.loads(p.read_text())["prompt_reply"]["status"] != 200]


def name(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


def frame(message: dict[str, Any]) -> bytes:
    """Build the binary frame that a recording describes."""
    if message["binary_event"] == 4:
        meta = json.dumps(message["metadata"]).encode()
        return struct.pack(">II", 4, len(meta)) + meta + b"\xff\xd8image"
    return struct.pack(">II", message["binary_event"], message.get("image_type", 1)) + b"image"


def player(recording: dict[str, Any]) -> Any:
    async def play(fake: FakeComfy, prompt: Prompt) -> None:
        (old,) = recording["history"]
        for message in recording["ws"]:
            if "binary_event" in message:
                body = {**message}
                if "metadata" in body:
                    body["metadata"] = {**body["metadata"], "prompt_id": prompt.id}
                await fake.send_raw(prompt.client, frame(body))
                continue
            text = json.dumps({"type": message["type"], "data": message["data"]})
            if message["type"] == "executing" and message["data"]["node"] is None:
                entry = json.loads(json.dumps(recording["history"][old]).replace(old, prompt.id))
                fake.history[prompt.id] = entry
                fake.running = None
            await fake.send_raw(prompt.client, text.replace(old, prompt.id))
        await asyncio.sleep(0)

    return play


@pytest.mark.parametrize("path", RUNS, ids=name)
def test_a_recorded_run_ends_as_it_ended(path: Path) -> None:
    recording = json.loads(path.read_text())
    (entry,) = recording["history"].values()
    tracker = Tracker(recording["workflow"])
    seen: list[Position] = []

    def listen(event: events.Event) -> None:
        if (position := tracker.feed(event)) is not None:
            seen.append(position)

    with (
        FakeComfy(player(recording)) as fake,
        Session(ComfyHttp(fake.url), poll_s=60) as session,
    ):
        fake.answer_prompt = _accept(fake)
        run = session.submit(recording["workflow"], listener=listen)
        failed = None
        try:
            got = run.wait(Deadline(20))
        except PennyreelError as problem:
            failed = problem
    messages = [kind for kind, _ in entry["status"]["messages"]]
    if "execution_error" in messages:
        assert failed is not None
        assert failed.code == "execution_failed"
        assert "tensor" not in failed.info.encode()
    elif "execution_interrupted" in messages:
        assert failed is not None
        assert failed.code == "cancelled"
    else:
        assert failed is None
        assert got["outputs"] == entry["outputs"]
        if "image_websocket" in path.stem:
            assert [(i.node, i.mime) for i in run.images] == [("2", "image/png")]
        fractions = [p.fraction for p in seen]
        assert fractions == sorted(fractions)
        if not recording["prompt_reply"]["body"]["node_errors"]:
            assert fractions[-1] == pytest.approx(1.0)


def _accept(fake: FakeComfy) -> Any:
    """Take any graph: the fake knows few node classes."""

    def answer(body: dict[str, Any]) -> web.Response:
        prompt = Prompt(body, len(fake.prompts))
        fake.prompts.append(prompt)
        fake.pending.append(prompt)
        fake._wake.set()
        return web.json_response({"prompt_id": prompt.id, "number": 0, "node_errors": {}})

    return answer


EXPECTED = {
    "bad_combo": ("bad_workflow", "node 2 (ImageScale).upscale_method: "),
    "bad_empty": ("no_outputs", "no output node"),
    "bad_link_dangling": ("bad_workflow", "links to node '77'"),
    "bad_link_type": ("bad_workflow", "received_type(MASK)"),
    "bad_list": ("no_outputs", "no output node"),
    "bad_missing_ckpt": ("missing_model", "nope.safetensors"),
    "bad_missing_class": ("unknown_node", "'NoSuchNode'"),
    "bad_missing_input": ("bad_workflow", "Required input is missing: images"),
    "bad_no_class_type": ("bad_workflow", "node 1: "),
    "bad_no_outputs": ("no_outputs", "no output node"),
    "bad_range": ("bad_workflow", "node 1 (EmptyImage).height: Value 99999999 bigger"),
    "bad_ui_format": ("bad_workflow", "could not read this graph"),
    "bad_value": ("bad_workflow", "node 1 (EmptyImage).width: "),
}


@pytest.mark.parametrize("path", REFUSED, ids=name)
def test_a_recorded_refusal_names_what_is_wrong(path: Path) -> None:
    recording = json.loads(path.read_text())
    reply = recording["prompt_reply"]
    code, words = EXPECTED[path.stem]

    def answer(_: dict[str, Any]) -> web.Response:
        if isinstance(reply["body"], str):
            return web.Response(status=reply["status"], text=reply["body"])
        return web.json_response(reply["body"], status=reply["status"])

    with FakeComfy() as fake, Session(ComfyHttp(fake.url)) as session:
        fake.answer_prompt = answer
        with pytest.raises(PennyreelError) as caught:
            session.submit(recording["workflow"])
    assert caught.value.code == code
    assert words in str(caught.value)
    assert caught.value.hint


def test_every_kind_of_recorded_refusal_is_expected() -> None:
    assert {p.stem for p in REFUSED} == set(EXPECTED)


@pytest.mark.parametrize("version", ["v0.3.64", "v0.3.75"])
def test_a_dropped_output_becomes_a_warning(version: str) -> None:
    recording = json.loads((HERE / version / "bad_partial_one_output_ok.json").read_text())

    with FakeComfy(player(recording)) as fake, Session(ComfyHttp(fake.url)) as session:
        accept = _accept(fake)

        def answer(body: dict[str, Any]) -> web.Response:
            accept(body)
            return web.json_response(
                {**recording["prompt_reply"]["body"], "prompt_id": body["prompt_id"]}
            )

        fake.answer_prompt = answer
        run = session.submit(recording["workflow"])
        run.wait(Deadline(20))
    assert run.warnings == (
        "not run: node 3 (SaveImage).images: Required input is missing: images",
    )


@pytest.mark.parametrize("path", ALL, ids=name)
def test_every_recorded_message_is_understood(path: Path) -> None:
    harmless = {"feature_flags"}
    for message in json.loads(path.read_text())["ws"]:
        if "binary_event" in message:
            event = events.parse(frame(message))
        else:
            event = events.parse(json.dumps({"type": message["type"], "data": message["data"]}))
        if isinstance(event, events.Other):
            assert event.type in harmless


OUTPUTS = {
    "save_webm": [("video", "video/webm")],
    "create_save_video": [("video", "video/mp4")],
    "vhs_mp4": [("video", "video/mp4")],
    "vhs_gif": [("image", "image/gif")],
}


@pytest.mark.parametrize("stem", ["save_webm", "create_save_video", "vhs_mp4", "vhs_gif"])
@pytest.mark.parametrize("version", ["v0.3.64", "v0.3.75"])
def test_outputs_of_video_nodes_are_collected_under_whatever_key(stem: str, version: str) -> None:
    recording = json.loads((HERE / version / f"{stem}.json").read_text())
    (entry,) = recording["history"].values()
    files, _ = collect(entry)
    assert [(f.kind, f.mime) for f in files] == OUTPUTS[stem]


@pytest.mark.parametrize("stem", ["preview_image", "vhs_mp4_temp"])
def test_temp_outputs_come_only_on_request(stem: str) -> None:
    recording = json.loads((HERE / "v0.3.75" / f"{stem}.json").read_text())
    (entry,) = recording["history"].values()
    assert collect(entry) == ([], [])
    files, _ = collect(entry, temp=True)
    assert [f.temp for f in files] == [True]
