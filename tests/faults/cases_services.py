"""Faults of what the worker speaks to: S3, servers of inputs, the platform. ComfyUI is scripted."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from faults.case import Case
from faults.commands import node, saved, sleeping
from faults.gateway import to
from faults.site import BUCKET, SECRET, Plan, Site

PLAN = Plan(
    env={"PENNYREEL_S3_ATTEMPTS": "3"},
    between=True,
    s3=True,
)
S3 = "S3's connection"
PLATFORM = "the platform's connection"
BY_S3 = {"delivery": "s3"}
SEND = "pennyreel_worker.loop:Scaler._send"
POLL = "pennyreel_worker.loop:Scaler._poll"
ATTEMPTS = "botocore.retries.standard:RetryHandler.needs_retry"
FETCH = "pennyreel_comfy.fetch:_Cutter.translate"
TRANSLATE = "pennyreel_worker.storage:_translate"


def uploading(method: str, path: str, _body: bytes) -> bool:
    return method in {"PUT", "POST"} and "pennyreel/" in path


# S3


def s3_down(at: Site) -> None:
    job = at.run(sleeping(1))
    at.running()
    at.s3.shut()
    try:
        result = at.result(job)
        assert result.artifacts[0].data is not None, "inline, since it is small"
        assert "bucket failed" in " ".join(result.warnings)
    finally:
        at.s3.open()


def s3_down_and_asked_for(at: Site) -> None:
    job = at.run(sleeping(1), outputs=BY_S3)
    at.running()
    at.s3.shut()
    try:
        assert at.failure(job, "storage_failed").retryable
    finally:
        at.s3.open()


def s3_down_before(at: Site) -> None:
    at.s3.shut()
    try:
        assert at.failure(at.run(saved()), "storage_failed").retryable
    finally:
        at.s3.open()


def s3_slow(at: Site) -> None:
    held = at.s3.add(uploading, "hold", times=9)
    job = at.run(saved(), outputs=BY_S3, timeout_s=3)
    assert "upload" in at.failure(job, "timeout").message
    held.go_on.set()


def s3_5xx(at: Site) -> None:
    rule = at.s3.add(uploading, "answer", status=503, times=2)
    assert at.result(at.run(saved(), outputs=BY_S3)).artifacts[0].s3
    assert rule.hits == 2


def s3_cut(at: Site) -> None:
    rule = at.s3.add(uploading, "cut")
    big = {"1": node("FakeBig", bytes=8 << 20, filename_prefix="big")}
    assert at.result(at.run(big, outputs=BY_S3)).artifacts[0].bytes == 8 << 20
    assert rule.hits == 1


def s3_refuses(at: Site) -> None:
    text = b"<Error><Code>SignatureDoesNotMatch</Code><Message>no</Message></Error>"
    at.s3.add(lambda *_: True, "answer", status=403, body=text, times=99)
    problem = at.failure(at.run(saved(), outputs=BY_S3), "storage_failed")
    assert not problem.retryable
    assert "SECRET_ACCESS_KEY" in problem.hint


def no_bucket(at: Site) -> None:
    config = {
        "endpointUrl": at.s3.url,
        "accessId": "AKIATEST",
        "accessSecret": SECRET,
        "bucketName": f"{BUCKET}-gone",
    }
    job = at.run(saved(), outputs=BY_S3, platform={"s3Config": config})
    problem = at.failure(job, "storage_failed")
    assert not problem.retryable
    assert "NoSuchBucket" in problem.message


# inputs


@contextmanager
def breaking_off(at: Site, seconds: float = 0.0) -> Iterator[str]:
    """A server whose files break off in the middle, at once or after so many seconds."""
    over = threading.Event()

    def serve(server: socket.socket) -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client:
                client.recv(65536)
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
                over.wait(seconds)

    with socket.create_server(("127.0.0.1", at.file_port)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{at.file_port}/photo.png"
        finally:
            over.set()
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def loading() -> dict[str, object]:
    return saved(a=node("LoadImage", image="photo.png"))


def input_cut(at: Site) -> None:
    with breaking_off(at) as url:
        job = at.run(loading(), inputs=[{"name": "photo.png", "url": url}])
        assert at.failure(job, "input_unreachable").retryable


def input_slow(at: Site) -> None:
    with breaking_off(at, 60) as url:
        job = at.run(loading(), inputs=[{"name": "photo.png", "url": url}], timeout_s=2)
        at.failure(job, "timeout")


# the platform


def answers(method: str, path: str, body: bytes) -> bool:
    return "/job-done/" in path and b'"IN_PROGRESS"' not in body


def results(method: str, path: str, body: bytes) -> bool:
    return answers(method, path, body) and b'"artifacts"' in body


def refused_once(at: Site) -> None:
    rule = at.front.add(answers, "answer", status=400)
    at.result(at.run(saved()))
    assert rule.hits == 1


def refused_always(at: Site) -> None:
    at.front.add(results, "answer", status=400, times=99)
    assert "400" in at.failure(at.run(saved()), "result_refused").message


def flapping(at: Site) -> None:
    bad = at.front.add(answers, "answer", status=502, times=2)
    cut = at.front.add(answers, "abort")
    at.result(at.run(saved()))
    assert (bad.hits, cut.hits) == (2, 1)


def done_refused(at: Site) -> None:
    job = at.run(sleeping(1))
    at.running()
    at.front.shut()
    time.sleep(3)  # the fault itself lasts so long
    at.front.open()
    at.result(job)


def answer_lost(at: Site) -> None:
    rule = at.front.add(answers, "lose")
    job = at.run(saved(), finals=2)
    at.result(job)
    at.until(
        lambda: sum(p.status == "COMPLETED" for p in at.platform.posts(job)) > 1, "posted again"
    )
    at.result(job)
    assert rule.hits == 1


def take_5xx(at: Site) -> None:
    _take(at, lambda: at.front.add(to("/job-take"), "answer", status=500, times=10**6))


def take_429(at: Site) -> None:
    _take(at, lambda: at.front.add(to("/job-take"), "answer", status=429, times=10**6))


def _take(at: Site, begin: object) -> None:
    """For six seconds no job can be taken; the worker goes on asking, not too often."""
    worker = at.worker().id
    began = time.monotonic()
    begin()  # type: ignore[operator]
    job = at.run(saved())
    at.until(lambda: time.monotonic() > began + 6, "the fault lasts so long")
    asked = at.front.count("/job-take", since=began)
    at.front.clear()
    at.result(job)
    assert asked < 30, f"asked {asked} times"
    assert at.worker().id == worker


def take_refused(at: Site) -> None:
    worker = at.worker().id
    at.front.shut()
    job = at.run(saved())
    time.sleep(3)  # the fault itself lasts so long
    at.front.open()
    at.result(job)
    assert at.worker().id == worker


def stopped_as_taken(at: Site) -> None:
    kept = at.front.add(to("/job-take/"), "keep")  # its answer is on its way, and does not come
    at.until(kept.hit.is_set, "a poll is open")
    job = at.run(saved(), finals=0)
    at.until(
        lambda: at.call("GET", f"status/{job}")["status"] == "IN_PROGRESS", "it was handed out"
    )
    stops = at.front.count("/job-stop")
    at.cancel(job)
    at.until(lambda: at.front.count("/job-stop") > stops, "the stop has arrived")
    kept.go_on.set()
    at.until(lambda: at.said("stopped before it began"), "the job is dropped")
    assert not at.platform.posts(job)


def stop_channel_broken(at: Site) -> None:
    bad = at.front.add(to("/job-stop"), "answer", status=500, times=2)
    cut = at.front.add(to("/job-stop"), "cut", times=2)
    job = at.run(sleeping(60))
    at.running()
    at.until(lambda: bad.hits + cut.hits == 4, "its polls have failed")
    at.cancel(job)
    at.result(at.run(saved(), timeout_s=15))


def progress_cut(at: Site) -> None:
    def progress(_method: str, path: str, body: bytes) -> bool:
        return "/job-done/" in path and b'"IN_PROGRESS"' in body

    rule = at.front.add(progress, "abort", times=2)
    job = at.run(sleeping(4))
    at.result(job)
    assert rule.hits == 2
    assert at.progress(job), "the later ones arrived"


RIGHT = "the right result"
CASES = (
    Case("S3 is down", S3, "its socket closed in mid-job", "the result, inline, with a warning",
         30, "pennyreel_worker.delivery:inline", s3_down),
    Case("S3 is down and asked for", S3, "its socket closed in mid-job",
         "`storage_failed`, retryable", 30, TRANSLATE, s3_down_and_asked_for),
    Case("S3 is down before", S3, "its socket closed before the job",
         "`storage_failed`, retryable, before the GPU is used", 30, TRANSLATE, s3_down_before),
    Case("S3 is slow", S3, "uploads do not get on", "`timeout` at the job's deadline", 12,
         "pennyreel_worker.storage:Store._transfer", s3_slow),
    Case("S3 fails, then works", S3, "503 twice", RIGHT, 30, ATTEMPTS, s3_5xx),
    Case("S3 is cut", S3, "the connection aborted in mid-upload", RIGHT, 30, ATTEMPTS, s3_cut),
    Case("S3 refuses the key", S3, "403 to everything", "`storage_failed`, not retryable", 30,
         TRANSLATE, s3_refuses),
    Case("the bucket is missing", "S3", "a bucket that was never made",
         "`storage_failed`, not retryable", 30, TRANSLATE, no_bucket),
    Case("an input breaks off", "the input's connection", "closed in mid-body",
         "`input_unreachable`, retryable", 20, FETCH, input_cut),
    Case("an input is slow", "the input's connection", "silent in mid-body",
         "`timeout` at the job's deadline", 8, "pennyreel_comfy.cutting:Cutter.check", input_slow),
    Case("a result is refused once", PLATFORM, "400 to the answer", RIGHT, 20, SEND,
         refused_once),
    Case("a result is always refused", PLATFORM, "400 to every result", "`result_refused`", 12,
         "pennyreel_worker.loop:Scaler._post", refused_always),
    Case("answers fail", PLATFORM, "502, 502, and a connection cut in mid-post", RIGHT, 12, SEND,
         flapping),
    Case("the platform is away as a job ends", PLATFORM, "its socket closed for 3 s", RIGHT, 20,
         SEND, done_refused),
    Case("an answer is lost", PLATFORM, "cut after the result was taken",
         "the right result, posted again", 20, "pennyreel_worker.loop:Scaler._post#lost",
         answer_lost),
    Case("progress is cut", PLATFORM, "cut in the first two progress posts", RIGHT, 20,
         "pennyreel_worker.reporting:Reporter._run", progress_cut),
    Case("taking fails", PLATFORM, "500 to each poll, for 6 s", "the right result, later", 40,
         POLL, take_5xx),
    Case("taking is limited", PLATFORM, "429 to each poll, for 6 s", "the right result, later",
         40, POLL, take_429),
    Case("the platform is away", PLATFORM, "its socket closed for 3 s",
         "the right result, later, by the same worker", 40, f"{POLL}#first",
         take_refused),
    Case("a stop overtakes its job", PLATFORM, "the job's poll delayed until its stop has come",
         "cancelled, and never begun", 20, "pennyreel_worker.loop:Scaler.stop_job",
         stopped_as_taken),
    Case("the stop channel fails", PLATFORM, "500 and cuts on its polls",
         "cancelled, and the GPU is free", 40,
         "pennyreel_worker.loop:Scaler.monitor_stop_signals", stop_channel_broken, fresh=True),
)  # fmt: skip
