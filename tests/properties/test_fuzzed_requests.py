"""Requests, valid to hostile, through the worker's own entry: some each time, and ten thousand."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pennyreel_contract import Code, ErrorInfo, Info, Result, parse_info, parse_result
from pennyreel_worker.delivery import RUN_LIMIT
from properties.requests_fuzzed import SECRET, make, node
from worker.support import SAVE, Bench, bench_of, request, settings_of

SEED = os.environ.get("PENNYREEL_FUZZ_SEED", "2026")
FEW, MANY = 500, 10_000
AT_ONCE = 4
STUB = Path(__file__).with_name("stub_comfyui.py")
GOOD_EVERY = 100


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A worker whose folders have neighbours that nobody may touch."""
    for name in ("etc/passwd", "escaped", "escaped.png", "work/escaped", "cwd/b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("untouched")
    monkeypatch.chdir(tmp_path / "cwd")
    settings = settings_of(
        PENNYREEL_COMFYUI_COMMAND=json.dumps([sys.executable, str(STUB), "--port", "{port}"]),
        PENNYREEL_WORK_DIR=str(tmp_path / "work"),
        PENNYREEL_JOB_TIMEOUT_MAX_S="30",
    )
    with bench_of(settings) as made:
        yield made


def tree(root: Path, but: Path) -> dict[str, str]:
    """Every file and folder in `root`, with its text, but for what is in `but`."""
    return {
        str(path): path.read_text() if path.is_file() else ""
        for path in sorted(root.rglob("*"))
        if not path.is_relative_to(but)
    }


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(FEW, marks=pytest.mark.timeout(240)),
        pytest.param(MANY, marks=[pytest.mark.long, pytest.mark.timeout(1800)]),
    ],
)
def test_no_request_crashes_the_worker_or_escapes_the_contract(
    bench: Bench,
    count: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.INFO)
    own = bench.comfy.folders["output"].parent
    before, pid = tree(tmp_path, own), bench.comfy.process.pid
    faults: list[str] = []
    seen: Counter[str] = Counter()

    async def run(numbers: Iterator[int]) -> None:
        for number in numbers:
            seed = f"{SEED}-{number}"
            try:
                kind = _judge(make(seed), await _send(bench, make(seed)))
                seen[kind] += 1
                if number < FEW and kind in {"result", "images"}:
                    await _once_more(bench, seed, kind)
                if number % GOOD_EVERY == 0:
                    assert parse_result(await bench.job(request(SAVE))).artifacts
            except Exception as problem:  # noqa: BLE001 - each is a finding, named by its seed
                faults.append(f"make({seed!r}): {type(problem).__name__}: {problem}"[:600])
            bench.posts.clear()

    async def all_of_them() -> None:
        numbers = iter(range(count))
        await asyncio.gather(*(run(numbers) for _ in range(AT_ONCE)))

    asyncio.run(all_of_them())
    said = caplog.text + "".join(capfd.readouterr())
    told = f"PENNYREEL_FUZZ_SEED={SEED}; {dict(seen.most_common())}"
    sys.stdout.write(told)
    assert not faults, f"{told}: {len(faults)} faults\n" + "\n".join(faults[:20])
    assert sum(seen.values()) == count
    # The requests were good enough to reach everything behind the parser.
    assert {"result", "info", "images", "refusal", "bad_request", "execution_failed"} <= set(seen)
    assert seen["result"] > count / 50
    assert seen["images"] > count / 50
    assert SECRET not in said
    assert bench.comfy.process.pid == pid, "ComfyUI was started anew"
    assert bench.left() == []
    assert tree(tmp_path, own) == before
    assert bench.fake()["history"] == []
    assert bench.good(request(SAVE)).artifacts


async def _send(bench: Bench, job: dict[str, Any]) -> dict[str, Any]:
    return await bench.job(job.pop("input", None), job.pop("id"), **job)


async def _once_more(bench: Bench, seed: str, kind: str) -> None:
    """The same attempt twice at once, under two labels; and another graph as the same attempt."""
    same, labelled, other = make(seed), make(seed), make(seed)
    body = _dict(_said(other))
    if "timeout_s" in body:  # it may be a short one, and was enough by chance
        return
    labelled["input"] = {**body, "metadata": {"label": seed}}
    other["input"] = {**body, "workflow": {**body["workflow"], "more": node("FakeNothing")}}
    sent = [same, labelled, other]
    replies = await asyncio.gather(*(_send(bench, dict(job)) for job in sent))
    kinds = [_judge(job, reply) for job, reply in zip(sent, replies, strict=True)]
    # All wait for the former one's end: any may be the first. Without a bucket nobody knows of one
    # that is over, so the other graph may run before or after the two.
    assert set(kinds[:2]) <= {kind, "attempt_conflict"}
    assert kinds.count("attempt_conflict") < 3, "one of them ran"
    if kinds[:2] == [kind, kind]:
        assert _files(replies[0]) == _files(replies[1])


def _files(reply: dict[str, Any]) -> list[tuple[str, str | None]]:
    if "images" in reply:
        return [(image["filename"], image["data"]) for image in reply["images"]]
    return [(artifact.name, artifact.data) for artifact in parse_result(reply).artifacts]


# What follows says in its own words what the worker's parsers say in theirs: a judge who asked
# them would believe whatever they do.


def _said(job: dict[str, Any]) -> object:
    """A job's input; of a string that is JSON, what that says."""
    given: object = job.get("input")
    if isinstance(given, str):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(given)
    return given


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_ours(body: object) -> bool:
    said = _dict(body)
    return "contract" in said or (said.get("op") == "info" and "workflow" not in said)


def _refusal(body: object) -> str | None:
    """The stock worker's words for a request that it does not take."""
    if body is None:
        return "Please provide input"
    if isinstance(body, str):
        return "Invalid JSON format in input"
    if _dict(body).get("workflow") is None:
        return "Missing 'workflow' parameter"
    images = _dict(body).get("images")
    pairs = images if isinstance(images, list) else [None]
    if images is not None and any(
        not isinstance(_dict(pair).get(key), str) for pair in pairs for key in ("name", "image")
    ):
        return "'images' must be a list of objects with 'name' and 'image' keys"
    return None


def _judge(job: dict[str, Any], reply: dict[str, Any]) -> str:
    """Return what kind of answer it is; raise where the contract knows no such answer."""
    text = json.dumps(reply, allow_nan=False, ensure_ascii=False)
    assert len(text.encode()) <= RUN_LIMIT
    assert json.loads(text) == reply
    assert SECRET not in text
    body = _said(job)
    if not _is_ours(body):
        return _stock(body, reply)
    if "error" in reply:
        assert set(reply) == {"error"}
        assert "pennyreel_error" in json.loads(reply["error"])
        return _known(ErrorInfo.decode(reply["error"]))
    said = _dict(body)
    if said.get("op") == "info":
        assert set(reply) <= set(Info.model_fields)
        assert parse_info(reply).versions
        return "info"
    assert set(reply) <= set(Result.model_fields)
    result = parse_result(reply)
    assert result.attempt_id == said["attempt_id"]
    assert result.metadata == said.get("metadata", {})
    for artifact in result.artifacts:
        assert len(base64.b64decode(artifact.data or "", validate=True)) == artifact.bytes
    return "result"


def _stock(body: object, reply: dict[str, Any]) -> str:
    if (words := _refusal(body)) is not None or set(reply) == {"error"}:
        assert reply == {"error": words}
        return "refusal"
    if "error" in reply:
        assert set(reply) - {"code", "hint"} == {"error", "details"}
        assert isinstance(reply["error"], str)
        assert all(isinstance(line, str) for line in reply["details"])
        if "code" not in reply:
            return "failed"
        return _known(ErrorInfo(code=reply["code"], message=reply["error"], hint=reply["hint"]))
    assert set(reply) <= {"images", "errors", "status"}
    for image in reply["images"]:
        assert set(image) == {"filename", "type", "data"}
        assert image["type"] == "base64"
        assert base64.b64decode(image["data"], validate=True)
    return "images" if reply["images"] else "no images"


def _known(info: ErrorInfo) -> str:
    code = Code(info.code)
    assert code is not Code.INTERNAL, f"a bug: {info.message}"
    assert info.message
    assert info.hint
    return code.value
