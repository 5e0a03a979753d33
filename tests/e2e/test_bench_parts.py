"""The benches' own rulings: what they count, and which worker they do not believe."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "bench"))

from worker_bench import idle, uploads  # noqa: E402 - a bench is no package of ours
from worker_bench.comfyui import Place, Ran  # noqa: E402
from worker_bench.sink import received, running_sink  # noqa: E402

FOREIGN = ROOT / "bench" / "worker_bench" / "foreign.py"
HANDLER = """
import neighbour
print("what it prints as it is imported is no answer")
COMFY_HOST = "127.0.0.1:8188"

def handler(job):
    print("nor is this")
    return {"error": f"{COMFY_HOST} {neighbour.NAME} {job['id']}"}
"""


def test_another_workers_handler_is_timed_with_its_neighbours_and_whatever_it_prints(
    tmp_path: Path,
) -> None:
    """The stock worker's repository has them in `src`, its image beside the handler."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "neighbour.py").write_text("NAME = 'n'", encoding="utf-8")
    (tmp_path / "handler.py").write_text(HANDLER, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(FOREIGN), "time", str(tmp_path / "handler.py")],
        input='{"id": "j1"}\n{"id": "j2"}\n',
        env={"BENCH_COMFY_HOST": "127.0.0.1:7"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [a["error"] for a in answers] == ["127.0.0.1:7 n j1", "127.0.0.1:7 n j2"], done.stderr
    assert all(0 <= a["seconds"] < 30 for a in answers)


def test_only_garbage_collected_between_two_executions_is_taken_out() -> None:
    ran = [Ran(1, 0.0, 2.0, "a"), Ran(1, 2.5, 4.5, "b"), Ran(1, 4.6, 6.6, "c")]
    lost = idle.stretch(ran, []).lost_per_job
    assert lost == pytest.approx((0.5 + 0.1) / 3)
    assert idle.stretch(ran, [(0.5, 1.0), (6.7, 7.0)]).lost_per_job == pytest.approx(lost)
    # Of one that begins while a prompt is executed, what lies behind its end.
    found = idle.stretch(ran, [(1.9, 2.3), (4.45, 4.7)])
    assert found.lost_per_job == pytest.approx((0.2 + 0.0) / 3)
    assert found.busy == pytest.approx(6.0 / 6.2)


@pytest.fixture
def sink() -> Iterator[str]:
    with running_sink() as url:
        yield url


class Claims:
    """A worker that says that it has delivered one file; `sends` of its bytes go to the sink."""

    def __init__(self, place: Place, sink: str, sends: int) -> None:
        self.place, self.sink, self.sends = place, sink, sends

    def submit(self, _: dict[str, Any], **__: Any) -> str:
        began = time.monotonic()
        mark = {"what": "ran", "pid": 1, "prompt": "p", "began": began, "ended": began + 0.25}
        (self.place.root / "marks-1.jsonl").write_text(json.dumps(mark) + "\n", encoding="utf-8")
        put = urllib.request.Request(f"{self.sink}/b/k", data=bytes(self.sends), method="PUT")
        urllib.request.urlopen(put, timeout=30).close()
        self.ended = began + 1.0
        return "j"

    def wait(self, jobs: list[str]) -> dict[str, Any]:
        return {job: SimpleNamespace(at=self.ended) for job in jobs}

    def output(self, _: str) -> dict[str, Any]:
        return {"artifacts": [{}], "timings": {"deliver": 0.0}}


def test_an_upload_counts_when_the_store_has_its_bytes_and_takes_what_others_clocks_say(
    tmp_path: Path, sink: str
) -> None:
    place = Place(tmp_path, ())
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "0.bin").write_bytes(bytes(1000))

    def deliver(sends: int) -> float:
        site = uploads._Site(place, Claims(place, sink, sends), sink)  # type: ignore[arg-type]
        return uploads._deliver(site, "files", 1)

    assert deliver(1000) == pytest.approx(0.75)
    assert received(sink) == 1000
    with pytest.raises(SystemExit, match="999 of 1000 bytes"):
        deliver(999)
