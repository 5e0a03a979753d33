"""Requests, valid to hostile, through the worker's own entry: some each time, and ten thousand."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pennyreel_comfy.waiting import Deadline
from pennyreel_contract import Code, ErrorInfo, parse_info, parse_result
from pennyreel_worker.delivery import RUN_LIMIT
from pennyreel_worker.stock import is_stock, parse
from properties.requests_fuzzed import SECRET, make
from worker.support import SAVE, Bench, comfy_of, request, settings_of

SEED = os.environ.get("PENNYREEL_FUZZ_SEED", "2026")
FEW, MANY = 500, 10_000
AT_ONCE = 4
STUB = Path(__file__).with_name("stub_comfyui.py")
REFUSALS = {
    "Please provide input",
    "Invalid JSON format in input",
    "Missing 'workflow' parameter",
    "'images' must be a list of objects with 'name' and 'image' keys",
}


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
    with comfy_of(settings) as comfy:
        comfy.start()
        comfy.ready(Deadline(60))
        made = Bench(comfy, settings)
        yield made
        made.worker.close()


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
            job = make(seed)
            try:
                reply = await bench.job(job.pop("input", None), job.pop("id"), **job)
                seen[_judge(make(seed), reply)] += 1
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


def _judge(job: dict[str, Any], reply: dict[str, Any]) -> str:
    """Return what kind of answer it is; raise where the contract knows no such answer."""
    text = json.dumps(reply, allow_nan=False, ensure_ascii=False)
    assert len(text.encode()) <= RUN_LIMIT
    assert json.loads(text) == reply
    assert SECRET not in text
    body = parse(job.get("input"))
    if is_stock(body):
        return _stock(reply)
    if "error" in reply:
        assert set(reply) == {"error"}
        assert "pennyreel_error" in json.loads(reply["error"])
        return _known(ErrorInfo.decode(reply["error"]))
    assert isinstance(body, dict)
    if body.get("op") == "info":
        assert parse_info(reply).versions
        return "info"
    result = parse_result(reply)
    assert result.attempt_id == body["attempt_id"]
    return "result"


def _stock(reply: dict[str, Any]) -> str:
    if set(reply) == {"error"}:
        assert reply["error"] in REFUSALS
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
    return "images" if reply["images"] else "no images"


def _known(info: ErrorInfo) -> str:
    code = Code(info.code)
    assert code is not Code.INTERNAL, f"a bug: {info.message}"
    assert info.message
    assert info.hint
    return code.value
