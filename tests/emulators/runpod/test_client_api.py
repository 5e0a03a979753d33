"""What clients see of the platform (external-apis, section 1)."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from emulators.runpod.support import Bench, Client, Worker, until

if TYPE_CHECKING:
    from typing_extensions import Self

UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


def test_run_answers_with_an_id_of_its_region_and_in_queue(bench: Bench) -> None:
    answer = bench.client.post("run", {"input": {"a": 1}})
    assert answer.status_code == 200
    shown = answer.json()
    assert re.fullmatch(f"{UUID}-u1", shown.pop("id"))
    assert shown == {"status": "IN_QUEUE"}


def test_runsync_ids_start_with_sync(bench: Bench) -> None:
    shown = bench.client.post("runsync", {"input": {}}, wait=1000).json()
    assert re.fullmatch(f"sync-{UUID}-u1", shown["id"])


def test_runsync_answers_with_the_status_when_the_wait_is_over(bench: Bench) -> None:
    shown = bench.client.post("runsync", {"input": {}}, wait=1000).json()
    assert shown["status"] == "IN_QUEUE"
    assert bench.client.status(shown["id"])["status"] == "IN_QUEUE"


def test_runsync_answers_as_soon_as_the_job_is_done(bench: Bench) -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(bench.client.runsync, {"a": 1})
        job = until(lambda: bench.worker.get("job-take").content and bench.platform.events[-1])
        job_id = job.job_id  # type: ignore[union-attr]
        bench.clock.advance(1.5)
        bench.worker.done(job_id, {"output": {"b": 2}})
        assert answer.result() == {
            "id": job_id,
            "status": "COMPLETED",
            "delayTime": 0,
            "executionTime": 1500,
            "output": {"b": 2},
            "workerId": "pod1",
        }


@pytest.mark.parametrize("wait", ["999", "300001", "soon"])
def test_runsync_waits_from_one_second_to_five_minutes(bench: Bench, wait: str) -> None:
    assert bench.client.post("runsync", {"input": {}}, wait=wait).status_code == 400


def test_a_queued_job_shows_its_id_and_status_only(bench: Bench) -> None:
    job_id = bench.client.run()
    assert bench.client.status(job_id) == {"id": job_id, "status": "IN_QUEUE"}


def test_a_running_job_shows_its_delay_and_its_worker(bench: Bench) -> None:
    job_id = bench.client.run()
    bench.clock.advance(2.63)
    bench.worker.take()
    assert bench.client.status(job_id) == {
        "id": job_id,
        "status": "IN_PROGRESS",
        "delayTime": 2630,
        "workerId": "pod1",
    }


@pytest.mark.parametrize("progress", ["Update 1/3", {"percent": 5}, [1], 7, None])
def test_progress_of_any_json_kind_is_the_output_of_a_running_job(
    bench: Bench, progress: object
) -> None:
    job_id = bench.taken()
    assert "output" not in bench.client.status(job_id)
    bench.worker.progress(job_id, progress)
    shown = bench.client.status(job_id)
    assert shown["status"] == "IN_PROGRESS"
    assert shown["output"] == progress


def test_a_completed_job_shows_output_delay_and_execution_time(bench: Bench) -> None:
    job_id = bench.client.run()
    bench.clock.advance(31.618)
    bench.worker.take()
    bench.clock.advance(1.437)
    bench.worker.done(job_id, {"output": {"ok": True}})
    assert bench.client.status(job_id) == {
        "id": job_id,
        "status": "COMPLETED",
        "delayTime": 31618,
        "executionTime": 1437,
        "output": {"ok": True},
        "workerId": "pod1",
    }


def test_a_failed_job_shows_its_error_string(bench: Bench) -> None:
    job_id = bench.taken()
    bench.worker.done(job_id, {"error": "it broke"})
    shown = bench.client.status(job_id)
    assert (shown["status"], shown["error"]) == ("FAILED", "it broke")
    assert "output" not in shown


def test_a_failed_job_may_carry_output_beside_its_error(bench: Bench) -> None:
    job_id = bench.taken()
    bench.worker.done(job_id, {"error": "it broke", "output": {"details": [1]}})
    shown = bench.client.status(job_id)
    assert (shown["status"], shown["output"]) == ("FAILED", {"details": [1]})


def test_an_error_that_is_no_string_is_shown_as_json_text(bench: Bench) -> None:
    job_id = bench.taken()
    bench.worker.done(job_id, {"error": {"code": 5}})
    assert json.loads(bench.client.status(job_id)["error"]) == {"code": 5}


def test_progress_does_not_stay_as_the_output_of_a_job_that_completes_without(
    bench: Bench,
) -> None:
    job_id = bench.taken()
    bench.worker.progress(job_id, "half")
    bench.worker.done(job_id, {})
    shown = bench.client.status(job_id)
    assert shown["status"] == "COMPLETED"
    assert "output" not in shown


def test_cancel_answers_with_id_and_cancelled(bench: Bench) -> None:
    job_id = bench.client.run()
    assert bench.client.post(f"cancel/{job_id}").json() == {"id": job_id, "status": "CANCELLED"}
    assert bench.client.status(job_id)["status"] == "CANCELLED"
    assert bench.worker.get("job-take").status_code == 204


def test_cancel_reaches_the_worker_of_a_running_job(bench: Bench) -> None:
    job_id = bench.taken()
    assert bench.client.post(f"cancel/{job_id}").json()["status"] == "CANCELLED"
    assert bench.worker.stops() == [job_id]
    assert bench.worker.stops() == []


def test_a_cancelled_job_stays_cancelled_whatever_its_worker_still_posts(bench: Bench) -> None:
    job_id = bench.taken()
    bench.client.post(f"cancel/{job_id}")
    assert bench.worker.progress(job_id, "more").status_code == 200
    assert bench.worker.done(job_id, {"output": 1}).status_code == 200
    assert bench.client.status(job_id)["status"] == "CANCELLED"
    assert [post.accepted for post in bench.platform.posts(job_id)] == [False, False]


def test_cancelling_a_job_that_has_ended_changes_nothing(bench: Bench) -> None:
    job_id = bench.taken()
    bench.worker.done(job_id, {"output": 1})
    assert bench.client.post(f"cancel/{job_id}").json()["status"] == "COMPLETED"


def test_retry_queues_a_failed_job_under_the_same_id_without_its_output(bench: Bench) -> None:
    job_id = bench.taken({"a": 1})
    bench.worker.done(job_id, {"error": "no", "output": "old"})
    assert bench.client.post(f"retry/{job_id}").json() == {"id": job_id, "status": "IN_QUEUE"}
    assert bench.client.status(job_id) == {"id": job_id, "status": "IN_QUEUE"}
    again = bench.worker.take()
    assert (again["id"], again["input"]) == (job_id, {"a": 1})
    bench.worker.done(job_id, {"output": "new"})
    assert bench.client.status(job_id)["output"] == "new"
    assert bench.client.health()["jobs"]["retried"] == 1


def test_only_failed_and_timed_out_jobs_are_retried(bench: Bench) -> None:
    queued = bench.client.run()
    assert bench.client.post(f"retry/{queued}").status_code == 400
    bench.worker.take()
    assert bench.client.post(f"retry/{queued}").status_code == 400
    bench.worker.done(queued, {"output": 1})
    assert bench.client.post(f"retry/{queued}").status_code == 400


def test_purge_queue_removes_queued_jobs_only(bench: Bench) -> None:
    running = bench.taken()
    queued = [bench.client.run(), bench.client.run()]
    assert bench.client.post("purge-queue").json() == {"removed": 2, "status": "completed"}
    assert [bench.client.get(f"status/{job}").status_code for job in queued] == [404, 404]
    assert bench.client.status(running)["status"] == "IN_PROGRESS"


def test_health_has_every_field(bench: Bench) -> None:
    assert bench.client.health() == {
        "jobs": {"completed": 0, "failed": 0, "inProgress": 0, "inQueue": 0, "retried": 0},
        "workers": {
            "idle": 0,
            "initializing": 0,
            "ready": 0,
            "running": 0,
            "throttled": 0,
            "unhealthy": 0,
        },
    }


def test_health_counts_jobs_and_workers(bench: Bench) -> None:
    for body in ({"output": 1}, {"error": "no"}):
        bench.worker.done(bench.taken(), body)
    bench.taken()
    bench.client.run()
    bench.client.post(f"cancel/{bench.client.run()}")
    health = bench.client.health()
    assert health["jobs"] == {
        "completed": 1,
        "failed": 1,
        "inProgress": 1,
        "inQueue": 1,
        "retried": 0,
    }
    assert (health["workers"]["running"], health["workers"]["idle"]) == (1, 0)


def test_stream_gives_each_chunk_once_with_the_status(bench: Bench) -> None:
    job_id = bench.taken()
    assert bench.client.get(f"stream/{job_id}").json() == {"status": "IN_PROGRESS", "stream": []}
    for chunk in ("a", {"b": 1}):
        bench.worker.done(job_id, {"output": chunk}, route="job-stream")
    shown = bench.client.get(f"stream/{job_id}").json()
    assert [piece["output"] for piece in shown["stream"]] == ["a", {"b": 1}]
    bench.worker.done(job_id, {"output": "c"}, route="job-stream")
    bench.worker.done(job_id, {"output": []})
    shown = bench.client.get(f"stream/{job_id}").json()
    assert (shown["status"], [p["output"] for p in shown["stream"]]) == ("COMPLETED", ["c"])
    assert bench.client.get(f"stream/{job_id}").json()["stream"] == []


@pytest.mark.parametrize("key", ["", "Bearer wrong", "wrong", "Basic rpa_EMULATED"])
@pytest.mark.parametrize("path", ["health", "status/x"])
def test_a_wrong_key_is_answered_with_401(bench: Bench, key: str, path: str) -> None:
    client = Client(bench.platform, "ep", bench.session, key)
    assert client.get(path).status_code == 401
    assert client.post("run", {"input": {}}).status_code == 401


def test_the_key_is_accepted_with_bearer_and_bare(bench: Bench) -> None:
    bare = Client(bench.platform, "ep", bench.session, bench.platform.config.api_key)
    assert bare.get("health").status_code == 200
    assert bench.client.get("health").status_code == 200


def test_an_unknown_endpoint_is_answered_with_404(bench: Bench) -> None:
    client = Client(bench.platform, "other", bench.session)
    assert client.get("health").status_code == 404
    assert client.post("run", {"input": {}}).status_code == 404


@pytest.mark.parametrize("verb", ["status", "stream", "cancel", "retry"])
def test_an_unknown_job_is_answered_with_404(bench: Bench, verb: str) -> None:
    send = bench.client.get if verb in {"status", "stream"} else bench.client.post
    answer = send(f"{verb}/00000000-0000-0000-0000-000000000000-u1")
    assert answer.status_code == 404
    assert answer.json()["error"]


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"input": None},
        {"input": "text"},
        {"input": {}, "policy": 5},
        {"input": {}, "policy": {"executionTimeout": 4999}},
        {"input": {}, "policy": {"executionTimeout": 7 * 86_400_000 + 1}},
        {"input": {}, "policy": {"executionTimeout": True}},
        {"input": {}, "policy": {"ttl": 9999}},
        {"input": {}, "policy": {"ttl": 7 * 86_400_000 + 1}},
        {"input": {}, "policy": {"lowPriority": "yes"}},
        {"input": {}, "webhook": 5},
    ],
)
def test_a_bad_body_is_answered_with_400(bench: Bench, body: object) -> None:
    for path in ("run", "runsync"):
        answer = bench.client.post(path, body)
        assert answer.status_code == 400
        assert answer.json()["error"]


def test_a_body_that_is_no_json_is_answered_with_400(bench: Bench) -> None:
    answer = bench.session.post(
        f"{bench.client.url}/run", data=b"{", headers=bench.client.headers, timeout=10
    )
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "policy",
    [
        {"executionTimeout": 5000, "ttl": 10_000, "lowPriority": True},
        {"executionTimeout": 7 * 86_400_000, "ttl": 7 * 86_400_000, "lowPriority": False},
    ],
)
def test_a_policy_may_reach_its_bounds(bench: Bench, policy: dict[str, Any]) -> None:
    assert bench.client.run({}, policy=policy)


class Receiver(ThreadingHTTPServer):
    """Receives webhooks and answers them with given codes, then with 200."""

    daemon_threads = True

    def __init__(self, codes: list[int]) -> None:
        self.bodies: list[Any] = []
        self.codes = codes
        super().__init__(("127.0.0.1", 0), _Receive)

    def __enter__(self) -> Self:
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        self.thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()


class _Receive(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append(json.loads(raw))
        self.send_response(self.server.codes.pop(0) if self.server.codes else 200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.mark.parametrize("codes", [[200], [500, 200], [500, 404, 200], [503, 503, 503]])
def test_a_webhook_gets_the_status_object_in_at_most_three_tries(
    make_bench: Callable[..., Bench], codes: list[int]
) -> None:
    bench = make_bench(platform={"webhook_retry_s": 0.02})
    with Receiver(list(codes)) as receiver:
        job_id = bench.taken({}, webhook=f"http://127.0.0.1:{receiver.server_port}/hook")
        assert receiver.bodies == []
        bench.worker.done(job_id, {"output": {"x": 1}})
        until(lambda: len(receiver.bodies) == len(codes))
        assert receiver.bodies == [bench.client.status(job_id)] * len(codes)
        assert receiver.codes == []


def test_the_webhook_is_tried_again_after_ten_seconds_by_default(bench: Bench) -> None:
    assert bench.platform.config.webhook_retry_s == 10


def test_other_keys_of_the_request_reach_the_worker(bench: Bench) -> None:
    s3 = {"accessId": "a", "accessSecret": "b", "bucketName": "c", "endpointUrl": "https://d"}
    job_id = bench.client.run({"a": 1}, s3Config=s3, mine=[1])
    job = Worker(bench.platform, "ep", bench.session).take()
    assert job == {"id": job_id, "input": {"a": 1}, "s3Config": s3, "mine": [1]}
