"""Requests that are valid, nearly valid, and hostile, each made from a seed alone."""

from __future__ import annotations

import base64
import copy
import json
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

from fakes.comfyui import PNG

SECRET = "CANARY-5f2c81"
"""Stands wherever a request may carry a credential. Nobody may ever read it again."""

IMAGE = base64.b64encode(PNG).decode()
# Numeric addresses only: a name would be looked up.
URLS = (
    "http://127.0.0.1:1/x", "http://localhost:1/", "http://[::1]:1/", "http://10.0.0.1/a.png",
    "http://169.254.169.254/latest/meta-data", "http://0/", "http://2130706433:1/",
    "http://[::ffff:127.0.0.1]:1/", "file:///etc/passwd", "ftp://127.0.0.1/x", "http://", "//x",
    "s3://bucket/key", "s3://../..", "s3:///",
)  # fmt: skip
SIGNED = (*URLS, f"http://user:{SECRET}@127.0.0.1:1/x?token={SECRET}")
"""Only where a URL is expected: elsewhere it is a text like any other, and may be repeated."""

NAMES = (
    "../../escaped", "/etc/passwd", "..\\..\\escaped.png", "a/../../b", "C:\\x", ".", "..", "~",
    "a\0b", "\ud800", "é" * 150, "x" * 5000, "con", "\u202egnp.exe", "a b\n.png", "", "%s{0}{name}",
    "__proto__", "-rf", "a.png [output]", "sub/a.png",
)  # fmt: skip
NUMBERS = (
    0, -1, 1, 2**31, 2**63, 2**64, -(2**200), 10**400, 0.5, -0.0, 1e308, 5e-324,
    math.nan, math.inf, -math.inf,
)  # fmt: skip
DATA = (
    "%%%", "====", "A", "data:", "data:image/png;base64", "data:image/png;base64,", "data:,x",
    "data:image/png;base64,%", " " * 50, IMAGE[:-3], IMAGE * 3, "\ud800" + IMAGE,
    "data:;base64,AA==",
)  # fmt: skip
LINKS: tuple[Any, ...] = (
    ["9", 0],
    ["1", 0],
    ["77", 0],
    ["9", -1],
    ["9", 2**70],
    ["9"],
    [9, 0],
    [[], {}],
)


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def make(seed: str) -> dict[str, Any]:
    """Return one job as the platform hands it over. The same seed makes the same job."""
    rng = random.Random(seed)  # noqa: S311 - not a secret
    body: Any = copy.deepcopy(rng.choice(BASES)(rng))
    for _ in range(rng.choice((0, 0, 0, 0, 1, 1, 1, 2, 3, 6))):
        body = _mutate(rng, body)
    _tame(body, f"{seed}.mp4")
    if rng.random() < 0.06:
        _deepen(rng, body)
    if rng.random() < 0.05:
        body = _as_text(rng, body)
    job: dict[str, Any] = {"id": f"job-{seed}", "input": body}
    if rng.random() < 0.03:
        job["id"] = f"{rng.choice(NAMES)}-{seed}"
    if rng.random() < 0.03:
        job["s3Config"] = {"endpointUrl": rng.choice(SIGNED), "accessId": SECRET,
                           "accessSecret": SECRET, "bucketName": rng.choice(NAMES)}  # fmt: skip
    if rng.random() < 0.01:
        del job["input"]
    return job


def _graph(rng: random.Random) -> dict[str, Any]:
    graph = {"9": node("SaveImage", filename_prefix=rng.choice(("shot", "a/b", *NAMES)))}
    more: tuple[tuple[float, Any], ...] = (
        (0.2, node("FakeOutput", filename="a.mp4", key="gifs", filename_prefix="x")),
        (0.2, node("FakeText", text=rng.choice(NAMES))),
        (0.1, node("FakeError")),
        (0.05, node("FakeMemory")),
        (0.1, node("FakeNothing")),
        (0.05, node("NoSuchNode")),
        (0.2, node("KSampler", seed=1, model=["9", 0])),
        (0.2, node("LoadImage", image=rng.choice(("in.png", *NAMES)))),
    )
    chosen = [value for chance, value in more if rng.random() < chance]
    return {**graph, **{str(n): value for n, value in enumerate(chosen, 1)}}


def _ours(rng: random.Random) -> dict[str, Any]:
    body: dict[str, Any] = {"contract": 1, "attempt_id": f"fuzz-{rng.getrandbits(64):016x}"}
    optional: tuple[tuple[str, Any], ...] = (
        ("inputs", [{"name": "in.png", "data": IMAGE}]),
        ("inputs", [{"name": rng.choice(NAMES), "url": rng.choice(SIGNED)}]),
        ("inputs", [{"name": rng.choice(NAMES), "data": rng.choice((IMAGE, rng.choice(DATA)))}]),
        ("inputs", [{"name": "in.png", "s3": rng.choice(NAMES)}]),
        ("outputs", {"kinds": ["image"], "temp": True, "nodes": ["9"]}),
        ("outputs", {"nodes": ["9", rng.choice(NAMES)]}),
        ("seed", rng.choice(NUMBERS)),
        (
            "outputs",
            {"delivery": rng.choice(("inline", "s3", "x")), "url_ttl_s": rng.choice(NUMBERS)},
        ),
        ("timeout_s", rng.choice((30.0, 30.0, *NUMBERS))),
        ("metadata", {rng.choice(NAMES): rng.choice(NUMBERS)}),
        (
            "models",
            [{"folder": "checkpoints", "name": rng.choice(NAMES), "url": rng.choice(SIGNED)}],
        ),
        ("preview", True),
        ("comfy_org_api_key", SECRET),
    )
    body |= {name: value for name, value in optional if rng.random() < 0.08}
    return {**body, "workflow": _graph(rng)}


def _template(rng: random.Random) -> dict[str, Any]:
    body = {"contract": 1, "attempt_id": f"fuzz-{rng.getrandbits(64):016x}"}
    name = rng.choice(("no-such", *NAMES))
    return {**body, "template": name, "parameters": {rng.choice(NAMES): rng.choice(NUMBERS)}}


def _info(rng: random.Random) -> dict[str, Any]:
    return {"op": "info", **({"contract": 1} if rng.random() < 0.5 else {})}


def _stock(rng: random.Random) -> dict[str, Any]:
    body: dict[str, Any] = {"workflow": _graph(rng)}
    if rng.random() < 0.4:
        pair = {"name": rng.choice(("in.png", *NAMES)), "image": rng.choice((IMAGE, *DATA))}
        body["images"] = [pair] * rng.choice((1, 1, 2, 300))
    if rng.random() < 0.3:
        body["comfy_org_api_key"] = SECRET
    return body


def _large(rng: random.Random) -> dict[str, Any]:
    """Thousands of nodes, chained or in a ring, at times all of them outputs."""
    if rng.random() < 0.8:
        return _ours(rng)
    many = rng.choice((10_000, 3000, 300))
    kind = rng.choice(("ImageScale", "ImageScale", "KSampler"))
    graph = {str(n): node(kind, image=[str(n - 1 or many), 0]) for n in range(1, many + 1)}
    if rng.random() < 0.5:
        graph["1"] = node("EmptyImage")
        graph["save"] = node("SaveImage", images=[str(many), 0], filename_prefix="x")
    return {"workflow": graph}


BASES: tuple[Callable[[random.Random], Any], ...] = (
    _ours, _ours, _ours, _stock, _stock, _stock, _template, _info, _large,
)  # fmt: skip


def _junk(rng: random.Random) -> Any:
    pools: tuple[Any, ...] = (NAMES, NUMBERS, DATA, URLS, LINKS, (None, True, False, [], {}, [{}]))
    if rng.random() < 0.06:
        return _deep(rng.choice((20, 200, 900, 1500)), rng.random() < 0.5)
    return copy.deepcopy(rng.choice(rng.choice(pools)))


def _deep(depth: int, lists: bool) -> Any:
    value: Any = "end"
    for _ in range(depth):
        value = [value] if lists else {"inputs": value}
    return value


def _deepen(rng: random.Random, body: Any) -> None:
    """Put what has many levels where each parser looks: some of them count, and some recurse."""
    if not isinstance(body, dict):
        return
    deep = _deep(rng.choice((90, 101, 150, 260, 500, 1200, 3000)), rng.random() < 0.5)
    where = rng.choice(("metadata", "workflow", "input", "images", "contract", "unknown"))
    graph = body.get("workflow")
    if where == "input" and isinstance(graph, dict) and isinstance(graph.get("9"), dict):
        graph["9"]["inputs"] = {"images": deep}
    else:
        body[where] = {"deep": deep} if where in {"metadata", "workflow"} else deep


def _mutate(rng: random.Random, body: Any) -> Any:
    """Change one place: replace, remove, add, wrap, repeat."""
    places = list(_places(body, 60))
    if not places or rng.random() < 0.02:
        return _junk(rng)
    holder, key = rng.choice(places)
    how = rng.randrange(7)
    if how <= 2:
        holder[key] = _junk(rng)
    elif how == 3:
        del holder[key]
    elif how == 4:
        holder[key] = rng.choice(([holder[key]], {"inputs": holder[key]}, [holder[key]] * 3))
    elif isinstance(holder, dict):
        names = (*NAMES, "op", "contract", "workflow", "images", "inputs", "class_type", "nodes")
        holder[rng.choice(names)] = _junk(rng)
    else:
        holder.append(_junk(rng))
    return body


def _places(value: Any, most: int) -> Iterator[tuple[Any, Any]]:
    """Up to `most` places in it, the outer ones first."""
    queue, found = [value], 0
    while queue and found < most:
        holder = queue.pop(0)
        keys: list[Any] = []
        if isinstance(holder, dict):
            keys = list(holder)[:most]
        elif isinstance(holder, list):
            keys = list(range(min(len(holder), most)))
        for key in keys:
            found += 1
            yield holder, key
            queue.append(holder[key])


def _tame(body: Any, name: str) -> None:
    """Keep the fake's own nodes from doing what no real node does: write anywhere.

    Nor does a real one write over another job's file, which lies beside its own where the graph
    leaves no prefix to change: ComfyUI counts them.
    """
    graph = body.get("workflow") if isinstance(body, dict) else None
    for value in graph.values() if isinstance(graph, dict) else ():
        if isinstance(value, dict) and value.get("class_type") == "FakeOutput":
            inputs = value.get("inputs")
            if isinstance(inputs, dict):
                inputs.update(filename=name, type="output")


def _as_text(rng: random.Random, body: Any) -> str:
    try:
        text = json.dumps(body)
    except RecursionError:
        return "[" * 5000
    if rng.random() < 0.2:  # more levels than any parser of JSON goes down
        return rng.choice(("[", '{"workflow":')) * 200_000
    return text[: rng.randrange(len(text))] if rng.random() < 0.3 else text
