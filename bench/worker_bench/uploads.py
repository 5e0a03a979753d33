"""Figure 3: a gigabyte to S3. Memory above the warmed idle worker's, time against plain boto3."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from worker_bench import graphs, memory
from worker_bench.comfyui import Place
from worker_bench.fleet import Fleet
from worker_bench.sink import raw_bytes_per_s, received, running_sink

PLAIN = Path(__file__).with_name("plain_s3.py")
FOLDER, SMALL = "files", "small"
SMALL_BYTES = 1 << 16
MB = 1024**2
IDLE_S = 1.0
THREADS = (4, 8)
"""Plain boto3 is tried with both, and the faster is what we are compared with."""


class _Site(NamedTuple):
    """Where deliveries happen."""

    place: Place
    fleet: Fleet
    sink: str


class _Row(NamedTuple):
    ours_s: float
    plain_s: list[float]
    """With each of THREADS."""
    peak: int
    samples_per_s: float


def measure(place: Place, *, files: int, file_mb: int, repetitions: int) -> dict[str, Any]:
    """Deliver the same files by the worker and by plain boto3, in turns, to one sink."""
    folder = _make_files(place, files, file_mb)
    with running_sink() as url:
        raw = raw_bytes_per_s(url)
        env = {
            **place.worker_environment(),
            "BUCKET_ENDPOINT_URL": url,
            "BUCKET_NAME": "bench",
            "BUCKET_ACCESS_KEY_ID": "bench",
            "BUCKET_SECRET_ACCESS_KEY": "bench",
            "BUCKET_ADDRESSING": "path",
            "BUCKET_REGION": "us-east-1",
        }
        with Fleet(env).running() as fleet:
            site = _Site(place, fleet, url)
            for _ in range(3):  # warm: client, connections, threads; small files, little memory
                _deliver(site, SMALL, 1)
            idle = _idle(fleet.pid())
            _plain(url, folder, THREADS[0])
            rows = [_row(site, folder, files) for _ in range(repetitions)]
            after = _idle(fleet.pid())
    return _figures(rows, idle, after, raw, files * file_mb)


def _figures(rows: list[_Row], idle: int, after: int, raw: float, total_mb: int) -> dict[str, Any]:
    ours = statistics.median(row.ours_s for row in rows)
    plain = min(statistics.median(row.plain_s[n] for row in rows) for n in range(len(THREADS)))
    peaks = [(row.peak - idle) / MB for row in rows]
    return {
        "peak_mb_over_idle": round(max(peaks), 1),
        "peak_mb_all": [round(peak, 1) for peak in peaks],
        "idle_mb": round(idle / MB, 1),
        "after_mb": round(after / MB, 1),
        "s3_time_ratio": round(ours / plain, 3),
        "s3_time_ratio_all": [round(row.ours_s / min(row.plain_s), 3) for row in rows],
        "s3_ours_s": round(ours, 3),
        "s3_plain_s": round(plain, 3),
        "s3_mb": total_mb,
        "sink_raw_mb_per_s": round(raw / MB),
        "samples_per_s": round(min(row.samples_per_s for row in rows), 1),
    }


def _make_files(place: Place, files: int, file_mb: int) -> Path:
    folder = place.root / FOLDER
    folder.mkdir()
    block = os.urandom(MB)
    for n in range(files):
        with (folder / f"{n:03}.bin").open("wb") as file:
            for _ in range(file_mb):
                file.write(block)
    (place.root / SMALL).mkdir()
    (place.root / SMALL / "small.bin").write_bytes(block[:SMALL_BYTES])
    os.sync()  # the disk is quiet when the clock runs
    return folder


def _row(site: _Site, folder: Path, files: int) -> _Row:
    """Time both, then watch another delivery: to read a process's memory slows it down."""
    first, second = THREADS
    plain = [_plain(site.sink, folder, first)]
    ours = _deliver(site, FOLDER, files)
    plain.append(_plain(site.sink, folder, second))
    with memory.watching(site.fleet.pid()) as peak:
        began = time.monotonic()
        _deliver(site, FOLDER, files)
        spent = time.monotonic() - began
    return _Row(ours, plain, peak.most, peak.samples / spent)


def _deliver(site: _Site, folder: str, files: int) -> float:
    """Run one job; returns the seconds from its execution's end until the platform has its result.

    By ComfyUI's clock and the platform's, and with the bytes that the sink really got: a worker is
    not believed what it says of itself.
    """
    since, before = time.monotonic(), received(site.sink)
    job = site.fleet.submit(graphs.files(folder, files), outputs={"delivery": "s3"})
    ended = site.fleet.wait([job])[job].at
    made = sorted((site.place.root / folder).iterdir())[:files]
    artifacts = site.fleet.output(job)["artifacts"]
    if len(artifacts) != files:
        raise SystemExit(f"{len(artifacts)} of {files} files were delivered")
    wanted, came = sum(f.stat().st_size for f in made), received(site.sink) - before
    if came < wanted:
        raise SystemExit(f"the sink got {came} of {wanted} bytes")
    return ended - site.place.ran(since)[-1].ended


def _idle(pid: int) -> int:
    time.sleep(IDLE_S)
    seen = []
    for _ in range(20):
        seen.append(memory.pss(pid))
        time.sleep(IDLE_S / 20)
    return int(statistics.median(seen))


def _plain(url: str, folder: Path, threads: int) -> float:
    command = [sys.executable, str(PLAIN), url, str(folder), str(threads)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
