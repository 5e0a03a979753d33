"""The key of ComfyUI's paid nodes, on the real ComfyUI: with the request, and in no file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.support import Reply, Request, Scripted
from e2e.canaries import Canaries
from pennyreel_comfy.waiting import Deadline
from pennyreel_worker.settings import Settings
from worker.support import Bench, comfy_of, node, request

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
PAID = {
    "1": node("IdeogramV1", prompt="a paper boat", turbo=True),
    "9": node("SaveImage", images=["1", 0], filename_prefix="x"),
}


class Vendor:
    """Comfy's API: refuses each request, and looks at the worker's disk meanwhile."""

    def __init__(self) -> None:
        self.canaries = Canaries()
        self.key = self.canaries.plant("key")
        self.keys: list[str | None] = []
        self.found: list[object] = []
        self.folder = Path()

    def answer(self, asked: Request) -> Reply:
        self.keys.append(asked.headers.get("X-API-KEY"))
        self.found.append(self.canaries.in_files(self.folder))
        return Reply(401, b'{"error": "no"}', {"Content-Type": "application/json"})


@pytest.fixture
def vendor() -> Vendor:
    return Vendor()


@pytest.fixture
def bench(vendor: Vendor) -> Iterator[Bench]:
    root = os.environ.get("PENNYREEL_TEST_COMFYUI", str(ROOT / "build" / "comfyui"))
    with Scripted(vendor.answer) as server:
        options = json.dumps(["--comfy-api-base", server.url])
        settings = Settings.from_env(
            {"PENNYREEL_COMFYUI_ROOT": root, "PENNYREEL_COMFYUI_OPTIONS": options}
        )
        with comfy_of(settings) as comfy:
            comfy.start()
            comfy.ready(Deadline(180))
            vendor.folder = comfy.folders["temp"].parent
            made = Bench(comfy, settings)
            yield made
            made.worker.close()


def test_the_key_goes_to_the_vendor_and_into_no_file(
    bench: Bench, vendor: Vendor, capfd: pytest.CaptureFixture[str]
) -> None:
    """ComfyUI itself writes each request, with its headers, into temp/api_logs."""
    reply = bench.run({"workflow": PAID, "comfy_org_api_key": vendor.key})
    assert "error" in reply
    assert vendor.keys == [vendor.key], "it was asked once, and not again"
    assert vendor.found == [{}]
    bench.worker.settle()
    assert vendor.canaries.in_files(vendor.folder) == {}
    out, err = capfd.readouterr()
    assert vendor.canaries.found((json.dumps(bench.posts) + out + err).encode()) == set()
    assert bench.bad(request(PAID)).code == "execution_failed"
    assert vendor.keys == [vendor.key, None], "the next job has no key"
