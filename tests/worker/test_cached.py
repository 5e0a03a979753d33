"""The same request again, on the real ComfyUI: what costs time is cached, and the files are there.

A worker removes a job's files once they are delivered. ComfyUI does not know that, and would answer
a graph that it has cached with the names of files that are gone.
"""

from __future__ import annotations

import base64
import itertools
import struct
from collections.abc import Iterator

import pytest

from pennyreel_contract import Result
from worker.support import Bench, bench_of, node, real_settings, request

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

COSTLY, SMALL = "2", "3"
GRAPH = {
    "1": node("EmptyImage", width=1024, height=1024, batch_size=1, color=0x204060),
    COSTLY: node("ImageBlur", image=["1", 0], blur_radius=15, sigma=5.0),
    SMALL: node(
        "ImageScale", image=[COSTLY, 0], upscale_method="bilinear", width=64, height=64,
        crop="disabled",
    ),
}  # fmt: skip
COLOURS = itertools.count(0x204060)
SAVED = {**GRAPH, "9": node("SaveImage", images=[SMALL, 0], filename_prefix="shot")}
SHOWN = {**GRAPH, "9": node("PreviewImage", images=[SMALL, 0])}
BOTH = {**SAVED, "8": node("PreviewImage", images=[SMALL, 0])}
TEXT = {**GRAPH, "9": node("PreviewAny", source=[SMALL, 0])}


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """A worker without a bucket on the real ComfyUI."""
    with bench_of(real_settings()) as made:
        yield made


def ran(result: Result) -> set[str]:
    """The nodes that ComfyUI executed, and did not have in its cache."""
    return {timing.node for timing in result.nodes}


def content(result: Result) -> list[tuple[str | None, bytes]]:
    """What each node made, less the text in its pictures, which names the attempt."""
    made = [(a.node, base64.b64decode(a.data or "", validate=True)) for a in result.artifacts]
    return [(key, pixels(data) if data.startswith(b"\x89PNG") else data) for key, data in made]


def pixels(png: bytes) -> bytes:
    """The IDAT chunks of a PNG, compressed as they are."""
    found, at = b"", 8
    while at < len(png):
        size, kind = struct.unpack_from(">I4s", png, at)
        if kind == b"IDAT":
            found += png[at + 8 : at + 8 + size]
        at += size + 12
    assert found
    return found


@pytest.mark.parametrize(
    ("graph", "wanted"),
    [
        (SAVED, {}),
        (SHOWN, {"temp": True}),
        (BOTH, {"temp": True}),
        (TEXT, {}),
    ],
    ids=["saved", "previewed", "both", "text"],
)
@pytest.mark.parametrize("same", [False, True], ids=["another-attempt", "same-attempt"])
def test_the_same_graph_again_has_its_files_and_what_costs_time_is_cached(
    bench: Bench, graph: dict[str, object], wanted: dict[str, object], same: bool
) -> None:
    # In a colour of its own, so that no former case has it in the cache.
    colour = node("EmptyImage", width=1024, height=1024, batch_size=1, color=next(COLOURS))
    graph = {**graph, "1": colour}
    body = request(graph, outputs=wanted)
    first = bench.good(body)
    again = bench.good(body if same else request(graph, outputs=wanted))
    assert COSTLY in ran(first)
    assert not ran(again) & set(GRAPH)
    assert content(first)
    assert content(again) == content(first)
    assert bench.left() == []
