"""Bad requests are contract errors with a hint, and the worker takes the next job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from e2e.pixels import decode
from e2e.test_stop import SMALL, Platform
from fakes.waits import eventually
from pennyreel import Client
from pennyreel.config import Settings
from pennyreel.devstack import DevStack
from pennyreel_contract import BadRequest, ErrorInfo, new_attempt_id

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

LOAD = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "in.png"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}
UI = {"nodes": [{"id": 1, "type": "SaveImage"}], "links": [], "version": 0.4}

CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "UI format": ({"workflow": UI}, "ui_format", "Export (API)"),
    "unknown node": (
        {"workflow": {"1": {"class_type": "NoSuchNode", "inputs": {}}}},
        "unknown_node",
        "node pack",
    ),
    "missing file": ({"workflow": LOAD}, "bad_input", "input file"),
    "missing model": (
        {"workflow": {
            "1": {"class_type": "VAELoader", "inputs": {"vae_name": "no.safetensors"}},
            "2": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["1", 0]}},
            "3": {"class_type": "EmptyLatentImage",
                  "inputs": {"width": 64, "height": 64, "batch_size": 1}},
            "4": {"class_type": "SaveImage",
                  "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
        }},
        "missing_model",
        "models folder",
    ),
    "wrong type": (
        {"workflow": {**SMALL, "1": {"class_type": "EmptyImage", "inputs": {
            "width": "wide", "height": 64, "batch_size": 1, "color": 0}}}},
        "bad_workflow",
        "named nodes",
    ),
    "broken base64": (
        {"workflow": LOAD, "inputs": [{"name": "in.png", "data": "%%%"}]},
        "bad_input",
        "base64",
    ),
    "unknown field": ({"workflow": SMALL, "workfow": 1}, "bad_request", "named field"),
    "unknown template": ({"template": "no-such"}, "bad_template", "template"),
    "private URL": (
        {"workflow": LOAD, "inputs": [{"name": "in.png", "url": "http://127.0.0.1:1/a"}]},
        "address_refused",
        "public",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_bad_request_is_an_error_with_a_hint_and_the_worker_goes_on(
    stack: DevStack, case: str
) -> None:
    request, code, hint = CASES[case]
    platform = Platform(stack)
    body = {"contract": 1, "attempt_id": new_attempt_id(), **request}
    job = platform.call("POST", "run", json={"input": body})["id"]
    eventually(lambda: platform.status(job) in {"FAILED", "COMPLETED"}, 120)
    answer = platform.call("GET", f"status/{job}")
    assert answer["status"] == "FAILED"
    info = ErrorInfo.decode(answer["error"])
    assert info.code == code
    assert hint in info.hint
    assert "Traceback" not in answer["error"]
    following = platform.run(SMALL)
    eventually(lambda: platform.status(following) == "COMPLETED", 30)


def test_a_request_over_the_platforms_size_is_refused_by_client_and_platform(
    stack: DevStack, settings: Settings, tmp_path: Path
) -> None:
    big = tmp_path / "in.png"
    big.write_bytes(b"\0" * 11_000_000)
    client = Client(
        backend="runpod",
        runpod_base_url=stack.base_url,
        runpod_endpoint=stack.endpoint,
        runpod_api_key=stack.api_key,
        home=settings.home,
    )
    with client, pytest.raises(BadRequest) as caught:
        client.run(LOAD, inputs={"1.image": big}, allow_unknown_price=True)
    assert caught.value.code == "request_too_large"
    assert "in.png" in str(caught.value)
    assert "s3" in caught.value.hint.lower()
    platform = Platform(stack)
    reply = platform.session.post(
        f"{platform.base}/run", data=json.dumps({"input": {"a": "x" * 11_000_000}}), timeout=60
    )
    with reply:
        assert reply.status_code in {400, 413}
        assert "10" in reply.text


def test_an_input_of_200_mb_travels_by_s3_and_by_url(
    stack: DevStack, settings: Settings, tmp_path: Path
) -> None:
    """The dev backend puts large inputs into the stack's S3 and passes a presigned URL."""
    picture = tmp_path / "in.bmp"
    _draw(picture, 8192)
    assert picture.stat().st_size > 200_000_000
    scale = {
        "image": ["1", 0],
        "upscale_method": "area",
        "width": 64,
        "height": 64,
        "crop": "disabled",
    }
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "in.bmp"}},
        "2": {"class_type": "ImageScale", "inputs": scale},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "big"}},
    }
    with Client(backend="dev", home=settings.home) as client:
        by_upload = client.run(
            graph, inputs={"1.image": picture}, out_dir=tmp_path / "a", timeout_s=200
        )
    first = decode(by_upload.artifacts[0].path)
    assert (first.width, first.height) == (64, 64)

    assert stack.s3 is not None
    s3 = _boto(stack)
    s3.upload_file(str(picture), "pennyreel", "mine/in.bmp")
    url = s3.generate_presigned_url(
        "get_object", Params={"Bucket": "pennyreel", "Key": "mine/in.bmp"}
    )
    platform = Platform(stack)
    jobs = []
    for source in ({"url": url}, {"s3": "s3://pennyreel/mine/in.bmp"}):
        body = {
            "contract": 1,
            "attempt_id": new_attempt_id(),
            "workflow": graph,
            "inputs": [{"name": "in.bmp", **source}],
        }
        jobs.append(platform.call("POST", "run", json={"input": body})["id"])
    for job in jobs:
        eventually(lambda job=job: platform.status(job) in {"COMPLETED", "FAILED"}, 120)
        answer = platform.call("GET", f"status/{job}")
        assert answer["status"] == "COMPLETED", answer.get("error")


def _boto(stack: DevStack) -> Any:
    import boto3
    from botocore.config import Config

    assert stack.s3 is not None
    return boto3.client(
        "s3",
        endpoint_url=stack.s3.url,
        aws_access_key_id=stack.s3.key,
        aws_secret_access_key=stack.s3.secret,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )


def _draw(picture: Path, side: int) -> None:
    """Write a square BMP: 3 bytes a pixel, rows of one colour each."""
    size = 54 + side * side * 3
    header = b"BM" + size.to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    header += (40).to_bytes(4, "little") + side.to_bytes(4, "little") * 2
    header += (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(24)
    with picture.open("wb") as file:
        file.write(header)
        for row in range(side):
            file.write(bytes((row % 256, 80, 160)) * side)
