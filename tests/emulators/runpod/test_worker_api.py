"""What workers see of the platform (runpod-sdk: routes between worker and platform)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from emulators.runpod.support import PLAIN, Bench, Client, Worker, until
from pennyreel_emulators.runpod import JobFinished, JobReturned, JobTaken


def test_job_take_gives_the_oldest_job_with_id_and_input(bench: Bench) -> None:
    ids = [bench.client.run({"n": n}) for n in range(3)]
    taken = [bench.worker.take() for _ in range(3)]
    assert taken == [{"id": job, "input": {"n": n}} for n, job in enumerate(ids)]


def test_job_take_is_held_open_and_then_answered_with_204(bench: Bench) -> None:
    started = time.monotonic()
    answer = bench.worker.get("job-take", job_in_progress="0")
    assert (answer.status_code, answer.content) == (204, b"")
    assert time.monotonic() - started >= bench.platform.config.poll_hold_s * 0.9


def test_a_held_poll_gets_a_job_the_moment_it_is_queued(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(platform={"poll_hold_s": 20})
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(bench.worker.take)
        until(lambda: bench.client.health()["workers"]["idle"])
        assert not poll.done()
        job_id = bench.client.run()
        assert poll.result(15)["id"] == job_id


def test_the_poll_that_has_waited_longest_is_served_first(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(platform={"poll_hold_s": 20})
    with ThreadPoolExecutor(2) as pool:
        polls = []
        for n in (1, 2):
            polls.append(pool.submit(bench.another(f"pod{n}").take))
            until(lambda n=n: bench.client.health()["workers"]["idle"] == n)
        ids = [bench.client.run(), bench.client.run()]
        assert [poll.result(15)["id"] for poll in polls] == ids


def test_job_take_batch_gives_a_list_of_at_most_its_size(bench: Bench) -> None:
    ids = [bench.client.run({"n": n}) for n in range(5)]
    first = bench.worker.get("job-take-batch", batch_size=3, job_in_progress="0").json()
    assert [job["id"] for job in first] == ids[:3]
    second = bench.worker.get("job-take-batch", batch_size=3, job_in_progress="1").json()
    assert [job["id"] for job in second] == ids[3:]
    assert bench.worker.get("job-take-batch", batch_size=3).status_code == 204


@pytest.mark.parametrize("size", ["0", "-1", "many", "100000"])
def test_a_batch_of_no_sensible_size_is_refused(bench: Bench, size: str) -> None:
    assert bench.worker.get("job-take-batch", batch_size=size).status_code == 400


@pytest.mark.parametrize("key", ["", "wrong", "Bearer worker-key-EMULATED", "rpa_EMULATED"])
def test_a_worker_sends_its_own_key_raw(bench: Bench, key: str) -> None:
    bench.worker.headers["Authorization"] = key
    for route in ("job-take", "job-take-batch", "job-stop", "ping"):
        assert bench.worker.get(route).status_code == 401
    for route in ("job-done", "job-stream"):
        assert bench.worker.done("x", {"output": 1}, route=route).status_code == 401


def test_a_worker_id_that_was_not_filled_in_is_refused(bench: Bench) -> None:
    assert bench.another("$RUNPOD_POD_ID").get("ping").status_code == 400


def test_job_stop_is_held_until_a_job_is_to_be_stopped(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(platform={"poll_hold_s": 20})
    job_id = bench.taken()
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(bench.worker.stops)
        bench.client.post(f"cancel/{job_id}")
        assert poll.result(15) == [job_id]


def test_a_stop_reaches_only_the_worker_that_holds_the_job(bench: Bench) -> None:
    other = bench.another("pod2")
    other.get("ping")
    job_id = bench.taken()
    bench.client.post(f"cancel/{job_id}")
    assert other.stops() == []
    assert bench.worker.stops() == [job_id]


def test_posts_for_a_job_of_another_worker_are_refused(bench: Bench) -> None:
    job_id = bench.taken()
    assert bench.another("pod2").done(job_id, {"output": 1}).status_code == 400
    assert bench.client.status(job_id)["status"] == "IN_PROGRESS"


def test_posts_for_an_unknown_job_are_answered_with_404(bench: Bench) -> None:
    assert bench.worker.done("nothing", {"output": 1}).status_code == 404
    assert bench.worker.done("nothing", {"output": 1}, route="job-stream").status_code == 404


def test_a_post_that_is_no_json_object_is_refused(bench: Bench) -> None:
    job_id = bench.taken()
    assert bench.worker.done(job_id, [1]).status_code == 400
    assert bench.client.status(job_id)["status"] == "IN_PROGRESS"


def test_progress_that_arrives_after_the_result_makes_the_job_hang_in_progress(
    bench: Bench,
) -> None:
    """runpod-python issue 250: the last post wins."""
    job_id = bench.taken()
    bench.worker.done(job_id, {"output": "result"})
    bench.worker.progress(job_id, 90)
    shown = bench.client.status(job_id)
    assert (shown["status"], shown["output"]) == ("IN_PROGRESS", 90)
    bench.clock.advance(3600)  # neither the worker's silence nor the execution timeout ends it
    assert bench.client.status(job_id)["status"] == "IN_PROGRESS"
    assert bench.client.health()["jobs"]["completed"] == 0
    bench.worker.done(job_id, {"output": "again"})
    assert bench.client.status(job_id)["output"] == "again"
    assert bench.client.health()["jobs"]["completed"] == 1


def test_late_progress_can_be_ignored_on_request(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(late_progress="ignored")
    job_id = bench.taken()
    bench.worker.done(job_id, {"output": "result"})
    bench.worker.progress(job_id, 90)
    assert bench.client.status(job_id)["output"] == "result"


def test_every_post_of_a_worker_is_on_record(bench: Bench) -> None:
    job_id = bench.taken()
    for part in (10, 50):
        bench.worker.progress(job_id, part)
    bench.worker.done(job_id, {"output": {"x": 1}})
    posts = bench.platform.posts(job_id)
    assert [(p.status, p.output, p.accepted) for p in posts] == [
        ("IN_PROGRESS", 10, True),
        ("IN_PROGRESS", 50, True),
        ("COMPLETED", {"x": 1}, True),
    ]
    assert {p.worker_id for p in posts} == {"pod1"}


def test_stop_pod_in_one_answer_kills_the_other_job_in_flight(bench: Bench) -> None:
    first, second = bench.taken(), bench.taken()
    bench.worker.done(first, {"output": 1, "stopPod": True})
    assert bench.client.status(first)["status"] == "COMPLETED"
    assert bench.client.status(second)["status"] == "FAILED"
    bench.worker.done(second, {"output": 2})
    assert bench.client.status(second)["status"] == "FAILED"
    bench.client.post(f"retry/{second}")
    assert bench.worker.take()["id"] == second
    bench.worker.done(second, {"output": 3})
    assert bench.client.status(second)["output"] == 3


def raw_poll(worker: Worker) -> socket.socket:
    """A job-take poll on a bare socket, so that the test decides what becomes of it."""
    host, port = worker.url.split("/")[2].split(":")
    sock = socket.create_connection((host, int(port)))
    path = "/" + worker.url.split("/", 3)[3]
    key = worker.headers["Authorization"]
    sock.sendall(
        f"GET {path}/job-take/{worker.id}?gpu=X HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: {key}\r\n\r\n".encode()
    )
    return sock


def test_a_poll_whose_connection_is_closed_never_receives_a_job(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(platform={"poll_hold_s": 20, "tick_s": 5})
    for n in range(20):
        dead = bench.another(f"dead{n}")
        sock = raw_poll(dead)
        until(lambda: bench.client.health()["workers"]["idle"])
        sock.close()
        # At once: the platform's event loop may not know of the end yet.
        job_id = bench.client.run()
        assert bench.worker.take()["id"] == job_id
        bench.worker.done(job_id, {"output": n})
    assert not [
        e for e in bench.platform.events if isinstance(e, JobTaken) and "dead" in e.worker_id
    ]


def test_the_kernel_is_asked_whether_a_poll_is_alive(make_bench: Callable[..., Bench]) -> None:
    """All in one step of the platform's loop, which therefore has not heard of the end."""
    bench = make_bench(platform={"poll_hold_s": 20})
    sock = raw_poll(bench.another("dead"))
    until(lambda: bench.client.health()["workers"]["idle"])
    endpoint = bench.platform._endpoints["ep"]

    def close_and_submit() -> int:
        sock.close()
        endpoint.store.submit({"input": {}}, sync=False)
        endpoint.polls.match()
        return len(endpoint.store)

    assert bench.platform._ask(close_and_submit) == 1


def test_a_job_written_but_never_read_goes_back_to_the_queue(
    make_bench: Callable[..., Bench],
) -> None:
    """What a killed process leaves: it held its socket a moment longer, and read nothing."""
    bench = make_bench(platform={"poll_hold_s": 20})
    sock = raw_poll(bench.another("dead"))
    until(lambda: bench.client.health()["workers"]["idle"])
    job_id = bench.client.run()
    until(lambda: sock.recv(1, socket.MSG_PEEK))
    assert bench.client.status(job_id)["workerId"] == "dead"
    sock.close()
    assert bench.worker.take()["id"] == job_id


def test_a_job_that_was_read_is_not_handed_out_again_when_its_worker_closes(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench()
    sock = raw_poll(bench.another("brief"))
    until(lambda: bench.client.health()["workers"]["idle"])
    job_id = bench.client.run()
    answer = b""
    while job_id.encode() not in answer or not answer.endswith(b"}"):
        answer += sock.recv(65536)
    sock.close()
    assert bench.worker.get("job-take").status_code == 204
    assert bench.client.status(job_id)["workerId"] == "brief"


def test_a_job_that_could_not_be_written_goes_back_to_the_head_of_the_queue(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(platform={"poll_hold_s": 20, "tick_s": 5})
    dead = bench.another("dead")
    sock = raw_poll(dead)
    until(lambda: bench.client.health()["workers"]["idle"])
    # More than the kernel's buffers hold, so that the platform is in the middle of writing.
    first = bench.client.run({"data": "x" * 9_900_000})
    second = bench.client.run()
    until(lambda: any(isinstance(e, JobTaken) for e in bench.platform.events))
    sock.close()
    until(lambda: any(isinstance(e, JobReturned) for e in bench.platform.events))
    assert [bench.worker.take()["id"] for _ in range(2)] == [first, second]


def start_plain(bench: Bench, worker_id: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, **bench.platform.worker_environment("ep", worker_id)}
    return subprocess.Popen(PLAIN, env=env, stdout=subprocess.DEVNULL)


def test_a_worker_killed_with_its_poll_open_swallows_no_job(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(platform={"poll_hold_s": 20})
    for n in range(5):
        process = start_plain(bench, f"victim{n}")
        until(
            lambda n=n: (
                bench.client.health()["workers"]["idle"]
                and bench.platform._endpoints["ep"].roster.get(f"victim{n}")
            )
        )
        process.send_signal(signal.SIGKILL)
        process.wait()
        job_id = bench.client.run()
        assert bench.worker.take()["id"] == job_id
        bench.worker.done(job_id, {"output": n})


def test_a_hundred_jobs_are_each_completed_exactly_once_while_workers_are_killed(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(platform={"poll_hold_s": 20})
    survivors = [start_plain(bench, f"worker{n}") for n in range(2)]
    ids = []
    try:
        for n in range(4):
            victim = start_plain(bench, f"victim{n}")
            until(lambda n=n: bench.platform._endpoints["ep"].roster.get(f"victim{n}"))
            until(lambda: bench.client.health()["workers"]["running"] == 0)
            victim.kill()
            victim.wait()
            ids += [bench.client.run({"n": n}) for _ in range(25)]
            for job_id in ids:
                assert bench.client.ended(job_id)["status"] == "COMPLETED"
    finally:
        for process in survivors:
            process.kill()
            process.wait()
    events = bench.platform.events
    assert sorted(e.job_id for e in events if isinstance(e, JobTaken)) == sorted(ids)
    assert sorted(e.job_id for e in events if isinstance(e, JobFinished)) == sorted(ids)
    assert all(len(bench.platform.posts(job_id)) == 1 for job_id in ids)


def test_workers_started_by_somebody_else_count_in_health(bench: Bench) -> None:
    bench.worker.get("job-take")
    assert bench.client.health()["workers"]["idle"] == 1
    bench.taken()
    workers = bench.client.health()["workers"]
    assert (workers["idle"], workers["running"]) == (0, 1)


def test_closing_the_platform_answers_what_is_held(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(platform={"poll_hold_s": 60})
    with ThreadPoolExecutor(3) as pool:
        sessions = [requests.Session() for _ in range(3)]
        worker = [Worker(bench.platform, "ep", s) for s in sessions]
        held = [
            pool.submit(worker[0].get, "job-stop"),
            pool.submit(worker[1].get, "job-take"),
            pool.submit(Client(bench.platform, "ep", sessions[2]).post, "runsync", {"input": {}}),
        ]
        until(lambda: any(isinstance(e, JobTaken) for e in bench.platform.events))
        started = time.monotonic()
        bench.platform.close()
        assert time.monotonic() - started < 20
        for future in held:
            assert future.result(5).status_code in {200, 204}
        for s in sessions:
            s.close()
