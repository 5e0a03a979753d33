"""Rates, sizes and times of the platform (external-apis, section 1). The clock is moved by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from emulators.runpod.support import Bench, ManualClock, until
from pennyreel_emulators.runpod import JobExpired, Limits, RateLimit
from pennyreel_emulators.runpod.config import RATE_LIMITS
from pennyreel_emulators.runpod.jobs import split_chunk
from pennyreel_emulators.runpod.limits import RateLimiter, TooMany


@pytest.mark.parametrize(
    ("operation", "requests", "concurrent"),
    [
        ("run", 1000, 200),
        ("runsync", 2000, 400),
        ("status", 2000, 400),
        ("stream", 2000, 400),
        ("cancel", 100, 20),
        ("purge-queue", 2, None),
    ],
)
def test_the_default_limits_are_those_of_the_documentation(
    operation: str, requests: int, concurrent: int | None
) -> None:
    assert RATE_LIMITS[operation] == RateLimit(requests, concurrent, 10.0)


def test_a_third_purge_in_ten_seconds_is_answered_with_429(bench: Bench) -> None:
    codes = [bench.client.post("purge-queue").status_code for _ in range(3)]
    assert codes == [200, 200, 429]
    bench.clock.advance(10)
    assert bench.client.post("purge-queue").status_code == 200


def test_the_101st_cancel_in_ten_seconds_is_answered_with_429(bench: Bench) -> None:
    job_id = bench.client.run()
    codes = [bench.client.post(f"cancel/{job_id}").status_code for _ in range(101)]
    assert codes == [200] * 100 + [429]


def test_operations_are_limited_each_for_itself(bench: Bench) -> None:
    for _ in range(3):
        last = bench.client.post("purge-queue")
    assert last.status_code == 429
    assert bench.client.get("health").status_code == 200


def test_more_open_requests_than_allowed_are_answered_with_429(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(platform={"rate_limits": {"runsync": RateLimit(None, 1)}})
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(bench.client.runsync)
        until(lambda: bench.client.health()["jobs"]["inQueue"])
        assert bench.client.post("runsync", {"input": {}}).status_code == 429
        bench.worker.done(bench.worker.take()["id"], {"output": 1})
        assert first.result()["status"] == "COMPLETED"


def test_running_workers_raise_the_limit(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(platform={"rate_limits": {"status": RateLimit(1)}, "requests_per_worker": 3})
    job_id = bench.client.run()
    codes = [bench.client.get(f"status/{job_id}").status_code for _ in range(2)]
    assert codes == [200, 429]
    bench.worker.take()
    codes = [bench.client.get(f"status/{job_id}").status_code for _ in range(3)]
    assert codes == [200, 200, 429]


def test_limits_are_counted_by_key_and_endpoint() -> None:
    limiter = RateLimiter({"run": RateLimit(1)}, 0, ManualClock())
    for key, endpoint in (("k1", "a"), ("k2", "a"), ("k1", "b")):
        with limiter.admit(key, endpoint, "run", 0):
            pass
        with pytest.raises(TooMany), limiter.admit(key, endpoint, "run", 0):
            pass


def test_a_queue_beyond_its_bound_is_answered_with_429(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(
        workers_max=2, platform={"limits": Limits(queue_floor=3, queue_per_worker=2)}
    )
    codes = [bench.client.post("run", {"input": {}}).status_code for _ in range(5)]
    assert codes == [200] * 4 + [429]
    bench.platform.configure("ep", workers_max=0)
    bench.client.post("purge-queue")
    codes = [bench.client.post("run", {"input": {}}).status_code for _ in range(4)]
    assert codes == [200] * 3 + [429]


@pytest.mark.parametrize(("path", "limit"), [("run", 10_000_000), ("runsync", 20_000_000)])
def test_a_request_above_the_limit_is_answered_with_400(
    bench: Bench, path: str, limit: int
) -> None:
    body = {"input": {"data": "x" * limit}}
    answer = bench.client.post(path, body)
    assert answer.status_code == 400
    assert str(limit) in answer.json()["error"]


def test_a_request_just_below_the_limit_reaches_the_worker(bench: Bench) -> None:
    data = "x" * (10_000_000 - 100)
    job_id = bench.client.run({"data": data})
    job = bench.worker.take()
    assert (job["id"], job["input"]["data"] == data) == (job_id, True)


def test_a_run_result_above_10_mb_is_refused_and_the_job_looks_completed(bench: Bench) -> None:
    job_id = bench.taken()
    assert bench.worker.done(job_id, {"output": "x" * 10_000_000}).status_code == 400
    shown = bench.client.status(job_id)
    assert shown["status"] == "COMPLETED"
    assert not {"output", "error"} & set(shown)
    (post,) = bench.platform.posts(job_id)
    assert not post.accepted


def test_a_runsync_result_may_have_20_mb_and_no_more(bench: Bench) -> None:
    ids = [bench.client.post("runsync", {"input": {}}, wait=1000).json()["id"] for _ in range(2)]
    bench.worker.take()
    bench.worker.take()
    assert bench.worker.done(ids[0], {"output": "x" * 19_999_900}).status_code == 200
    assert bench.worker.done(ids[1], {"output": "x" * 20_000_000}).status_code == 400
    assert len(bench.client.status(ids[0])["output"]) == 19_999_900
    assert "output" not in bench.client.status(ids[1])


def test_progress_above_the_limit_is_lost_like_a_result(bench: Bench) -> None:
    """The platform cannot read a body it refuses; so it cannot know that it was progress."""
    job_id = bench.taken()
    assert bench.worker.progress(job_id, "x" * 10_000_000).status_code == 400
    assert bench.client.status(job_id)["status"] == "COMPLETED"


def test_a_streamed_chunk_above_1_mb_is_split(bench: Bench) -> None:
    job_id = bench.taken()
    text = "ab" * 1_250_000
    bench.worker.done(job_id, {"output": text}, route="job-stream")
    pieces = [p["output"] for p in bench.client.get(f"stream/{job_id}").json()["stream"]]
    assert len(pieces) == 3
    assert "".join(pieces) == text


@pytest.mark.parametrize("chunk", ["é" * 100, '"\n' * 100, "🎬" * 50, {"a": ["é" * 90]}, "x" * 99])
def test_every_piece_of_a_chunk_fits_and_nothing_is_lost(chunk: object) -> None:
    pieces = split_chunk(chunk, 100)
    assert len(pieces) > 1
    assert all(len(json.dumps(piece)) <= 100 for piece in pieces)
    joined = "".join(str(piece) for piece in pieces)
    assert joined == (chunk if isinstance(chunk, str) else json.dumps(chunk))


def test_results_of_run_are_kept_for_30_minutes(bench: Bench) -> None:
    job_id = bench.taken()
    bench.worker.done(job_id, {"output": 1})
    bench.clock.advance(30 * 60 - 1)
    assert bench.client.status(job_id)["output"] == 1
    bench.clock.advance(1)
    assert bench.client.get(f"status/{job_id}").status_code == 404


def test_results_of_runsync_are_kept_for_one_minute(bench: Bench) -> None:
    job_id = bench.client.post("runsync", {"input": {}}, wait=1000).json()["id"]
    bench.worker.take()
    bench.worker.done(job_id, {"output": 1})
    bench.clock.advance(59)
    assert bench.client.status(job_id)["output"] == 1
    bench.clock.advance(1)
    assert bench.client.get(f"status/{job_id}").status_code == 404


def test_an_expired_job_cannot_be_retried(bench: Bench) -> None:
    job_id = bench.taken()
    bench.worker.done(job_id, {"error": "no"})
    bench.clock.advance(30 * 60)
    assert bench.client.post(f"retry/{job_id}").status_code == 404


def test_the_posts_of_a_job_can_be_looked_at_after_it_is_forgotten(bench: Bench) -> None:
    job_id = bench.taken()
    bench.worker.done(job_id, {"output": 1})
    bench.clock.advance(30 * 60)
    until(lambda: any(isinstance(event, JobExpired) for event in bench.platform.events))
    assert [post.output for post in bench.platform.posts(job_id)] == [1]


def test_status_with_a_ttl_shortens_the_retention(bench: Bench) -> None:
    job_id = bench.taken()
    bench.worker.done(job_id, {"output": 1})
    assert bench.client.get(f"status/{job_id}", ttl=6000).json()["status"] == "COMPLETED"
    bench.clock.advance(6)
    assert bench.client.get(f"status/{job_id}").status_code == 404


def test_the_ttl_counts_from_submission_and_includes_the_queue(bench: Bench) -> None:
    job_id = bench.client.run({}, policy={"ttl": 10_000})
    bench.clock.advance(9.9)
    assert bench.client.status(job_id)["status"] == "IN_QUEUE"
    bench.clock.advance(0.1)
    assert bench.client.get(f"status/{job_id}").status_code == 404
    assert bench.worker.get("job-take").status_code == 204


def test_the_ttl_deletes_a_running_job_and_stops_its_worker(bench: Bench) -> None:
    job_id = bench.taken({}, policy={"ttl": 10_000})
    bench.clock.advance(10)
    assert bench.client.get(f"status/{job_id}").status_code == 404
    assert bench.worker.stops() == [job_id]
    assert bench.worker.done(job_id, {"output": 1}).status_code == 404


def test_the_default_ttl_is_24_hours(bench: Bench) -> None:
    job_id = bench.client.run()
    bench.clock.advance(86_399)
    assert bench.client.status(job_id)["status"] == "IN_QUEUE"
    bench.clock.advance(1)
    assert bench.client.get(f"status/{job_id}").status_code == 404


@pytest.mark.parametrize(("policy", "seconds"), [({"executionTimeout": 5000}, 5), ({}, 600)])
def test_the_execution_timeout_ends_a_job_and_stops_its_worker(
    make_bench: Callable[..., Bench], policy: dict[str, int], seconds: float
) -> None:
    bench = make_bench(report_timeout_s=10_000)
    job_id = bench.client.run({}, policy=policy)
    bench.clock.advance(100)  # waiting in the queue does not count
    bench.worker.take()
    bench.clock.advance(seconds - 0.1)
    assert bench.client.status(job_id)["status"] == "IN_PROGRESS"
    bench.clock.advance(0.1)
    shown = bench.client.status(job_id)
    assert (shown["status"], shown["executionTime"]) == ("TIMED_OUT", seconds * 1000)
    assert bench.worker.stops() == [job_id]
    bench.worker.done(job_id, {"output": "late"})
    assert bench.client.status(job_id)["status"] == "TIMED_OUT"
    assert bench.client.post(f"retry/{job_id}").status_code == 200


def test_a_worker_that_stops_reporting_loses_its_job(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(report_timeout_s=20)
    job_id = bench.taken()
    for _ in range(3):
        bench.clock.advance(19)
        bench.worker.get("ping", job_id=job_id)
        assert bench.client.status(job_id)["status"] == "IN_PROGRESS"
    bench.clock.advance(20)
    shown = bench.client.status(job_id)
    assert (shown["status"], shown["error"]) == ("TIMED_OUT", "worker stopped reporting")
    assert bench.client.health()["workers"]["idle"] == 0


def test_an_endpoint_without_requests_is_scaled_down_until_somebody_raises_it(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(workers_max=5, workers_min=3)
    (endpoint,) = bench.platform._endpoints.values()
    day = 86_400
    bench.clock.advance(3 * day - 1)
    bench.client.run()  # a request counts as use
    bench.clock.advance(3 * day - 1)
    assert (endpoint.config.workers_min, endpoint.config.workers_max) == (3, 5)
    bench.clock.advance(1)
    until(lambda: (endpoint.config.workers_min, endpoint.config.workers_max) == (2, 2))
    bench.clock.advance(4 * day)
    until(lambda: endpoint.config.workers_max == 0)
    bench.client.run()
    assert endpoint.config.workers_max == 0
    bench.platform.configure(endpoint.id, workers_max=5)
    bench.clock.advance(1)
    bench.client.run()
    assert endpoint.config.workers_max == 5
