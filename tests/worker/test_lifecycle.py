"""The process as a whole: RunPod's own SDK loop, on the emulated platform and without one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import requests

from pennyreel_contract import ErrorInfo, parse_progress, parse_result
from pennyreel_emulators.runpod import (
    EndpointConfig,
    Event,
    JobFinished,
    JobTaken,
    PlatformConfig,
    RunPodPlatform,
    WorkerReady,
)
from worker.support import COMMAND, FAKE, S3, SAVE, Files, node, request, until

HERE = Path(__file__).parent
WORKER = (sys.executable, "-m", "pennyreel_worker")
UNTRIED = (sys.executable, str(HERE / "untried.py"))
FINAL = {"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"}
PASS = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG") if name in os.environ}


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def processes_with(*marks: str) -> list[int]:
    """Living processes with a mark in environment or command line: all that a worker started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and alive(int(entry.name)):
            try:
                text = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if any(mark.encode() in text for mark in marks):
                found.append(int(entry.name))
    return found


def local(
    tmp_path: Path, *arguments: str, stderr: IO[str] | int = subprocess.PIPE, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run the worker without a platform, as its SDK allows."""
    return subprocess.run(
        [sys.executable, str(HERE / "watched.py"), *arguments],
        env={
            **PASS, "HOME": str(tmp_path), "PENNYREEL_COMFYUI_COMMAND": COMMAND,
            "PENNYREEL_WORK_DIR": str(tmp_path / "work"), **env,
        },
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_comfyui_starts_before_the_sdk_is_imported_and_nothing_is_left(
    tmp_path: Path, s3: S3
) -> None:
    job = json.dumps({"id": "local-1", "input": request()})
    env = s3.env()
    ran = local(tmp_path, "--test_input", job, **env)
    told = ran.stdout + ran.stderr
    assert ran.returncode == 0, told
    assert re.findall(r"AUDIT (\w+)", told) == ["start", "runpod", "boto3"]
    assert "completed successfully" in told
    assert re.search(r"pennyreel \| info taking jobs after [\d.]+ s", told)
    assert "DEBUG" not in told  # the SDK's default, which prints results
    assert env["BUCKET_SECRET_ACCESS_KEY"] not in told
    assert "could not be posted" not in told  # there is no platform to tell
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize(
    "end",
    [
        node("FakeCrash"),
        # It is asked to end, and killed when it does not: twenty seconds.
        pytest.param(node("FakeStuck", seconds=600), marks=pytest.mark.long),
    ],
)
def test_a_comfyui_that_its_warm_up_killed_or_hangs_is_ready_again_before_a_job_is_taken(
    tmp_path: Path, end: dict[str, Any]
) -> None:
    warm = tmp_path / "warm.json"
    warm.write_text(json.dumps({"1": end}))
    job = json.dumps({"id": "local-1", "input": request()})
    env = {"PENNYREEL_WARMUP": str(warm), "PENNYREEL_COMFYUI_START_S": "10"}
    ran = local(tmp_path, "--test_input", job, **env)
    told = ran.stderr
    assert ran.returncode == 0, told
    failed, again, takes = (
        told.index(part) for part in ("Jobs are taken without it", "starting it", "taking jobs")
    )
    assert failed < again < takes
    assert "comfy_unavailable" not in told


def test_weights_are_read_while_comfyui_starts_and_it_is_warm_before_a_job_is_taken(
    tmp_path: Path,
) -> None:
    """Here ComfyUI goes on with its start only when the weights have been read."""
    weights = tmp_path / "volume" / "checkpoints" / "a.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(bytes(1000))
    warm, said = tmp_path / "warm.json", tmp_path / "said"
    warm.write_text(json.dumps({"1": node("FakeMemory", log=str(tmp_path / "runs"), times=0)}))
    program = tmp_path / "main.py"
    program.write_text(
        "import pathlib, runpy, time\n"
        f"while 'prefetch: ' not in pathlib.Path({str(said)!r}).read_text('utf-8'):\n"
        "    time.sleep(0.01)\n"
        f"runpy.run_path({str(FAKE)!r}, run_name='__main__')\n"
    )
    job = json.dumps({"id": "local-1", "input": request()})
    env = {
        "PENNYREEL_COMFYUI_COMMAND": json.dumps([sys.executable, str(program)]),
        "PENNYREEL_COMFYUI_START_S": "20",
        "PENNYREEL_MODEL_ROOTS": str(tmp_path / "volume"),
        "PENNYREEL_PREFETCH": "checkpoints",
        "PENNYREEL_WARMUP": str(warm),
    }
    with said.open("w") as stderr:
        ran = local(tmp_path, "--test_input", job, stderr=stderr, **env)
    told = said.read_text("utf-8")
    assert ran.returncode == 0, told
    assert "of 1 files" in told
    before, _, _ = told.partition("taking jobs")
    assert f"the warm-up {str(warm)!r} took" in before
    assert len((tmp_path / "runs").read_text().splitlines()) == 1


def test_a_failed_job_is_the_sdks_exit_code(tmp_path: Path) -> None:
    ran = local(tmp_path, "--test_input", json.dumps({"input": request({"1": node("FakeError")})}))
    assert ran.returncode == 1
    assert "execution_failed" in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"PENNYREEL_CONCURRENCY": "many"}, "PENNYREEL_CONCURRENCY='many'"),
        (
            {"PENNYREEL_COMFYUI_COMMAND": "", "PENNYREEL_COMFYUI_ROOT": "/nonexistent"},
            "not_installed",
        ),
        ({"PENNYREEL_WORK_DIR": "/dev/null/jobs"}, "PENNYREEL_WORK_DIR"),
    ],
)
def test_what_cannot_be_set_up_ends_with_1_and_a_line_that_says_why(
    tmp_path: Path, env: dict[str, str], told: str
) -> None:
    ran = local(tmp_path, **env)
    assert ran.returncode == 1
    assert told in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "AUDIT runpod" not in ran.stderr


class Client:
    def __init__(self, platform: RunPodPlatform, endpoint: str, session: requests.Session) -> None:
        self.url, self.session = f"{platform.base_url}/{endpoint}", session
        self.headers = {"Authorization": f"Bearer {platform.config.api_key}"}

    def post(self, path: str, body: object = None) -> dict[str, Any]:
        answer = self.session.post(
            f"{self.url}/{path}", json=body, headers=self.headers, timeout=60
        )
        answer.raise_for_status()
        return dict(answer.json())

    def status(self, job_id: str) -> dict[str, Any]:
        answer = self.session.get(f"{self.url}/status/{job_id}", headers=self.headers, timeout=60)
        return dict(answer.json())

    def run(self, given: object) -> str:
        return str(self.post("run", {"input": given})["id"])

    def ended(self, job_id: str, seconds: float = 30) -> dict[str, Any]:
        until(lambda: self.status(job_id)["status"] in FINAL, seconds)
        return self.status(job_id)


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as shared:
        shared.trust_env = False
        yield shared


@pytest.fixture(scope="module")
def platform() -> Iterator[RunPodPlatform]:
    """Endpoint `work` with one real worker of two slots; `byhand` without a fleet."""
    env = {**PASS, "PENNYREEL_COMFYUI_COMMAND": COMMAND, "PENNYREEL_CONCURRENCY": "2"}
    config = PlatformConfig(
        endpoints={
            "work": EndpointConfig(command=WORKER, env=env, workers_max=1, idle_timeout_s=600),
            "byhand": EndpointConfig(ping_interval_ms=1000),
        },
        poll_hold_s=2.0,
    )
    with RunPodPlatform(config) as running:
        yield running


@pytest.fixture
def work(platform: RunPodPlatform, session: requests.Session) -> Client:
    return Client(platform, "work", session)


def test_a_job_through_the_sdks_loop(work: Client) -> None:
    done = work.ended(work.run(request(metadata={"a": 1})))
    assert done["status"] == "COMPLETED", done
    result = parse_result(done["output"])
    assert result.artifacts[0].data
    assert result.worker["worker_id"] == done["workerId"]


def test_an_error_through_the_sdks_loop_is_read_back(work: Client) -> None:
    failed = work.ended(work.run(request({"1": node("MagicNode")})))
    assert failed["status"] == "FAILED"
    assert ErrorInfo.decode(failed["error"]).code == "unknown_node"
    stock = work.ended(work.run({"workflow": {"1": node("FakeError")}}))
    assert (stock["status"], stock["error"]) == ("FAILED", "Job processing failed")
    assert stock["output"]["details"]


def test_many_quick_jobs_end_with_their_results(work: Client, platform: RunPodPlatform) -> None:
    jobs = [work.run(request()) for _ in range(40)]
    for job in jobs:
        assert work.ended(job)["status"] == "COMPLETED"
        posts = platform.posts(job)
        assert posts[-1].status == "COMPLETED"
        percents = [p.percent for post in posts if (p := parse_progress(post.output)) is not None]
        assert percents == sorted(percents)


def test_a_cancelled_job_stops_comfyui_and_the_next_one_runs(
    work: Client, platform: RunPodPlatform
) -> None:
    job = work.run(request({"1": node("FakeSleep", seconds=60), **SAVE}))
    until(lambda: (work.status(job).get("output") or {}).get("pennyreel_progress"), 30)
    assert work.post(f"cancel/{job}")["status"] == "CANCELLED"
    assert work.ended(work.run(request()))["status"] == "COMPLETED"
    assert work.status(job)["status"] == "CANCELLED"
    (worker,) = [w for w in platform.workers("work") if w.state != "stopped"]
    assert any("cancelled by the platform" in line for line in platform.logs(worker.id))


def test_a_job_whose_input_does_not_come_keeps_the_gpu_from_no_other_that_waits(
    platform: RunPodPlatform,
    session: requests.Session,
    start: Callable[..., ByHand],
    files: Files,
) -> None:
    client = Client(platform, "byhand", session)
    slow = client.run(request(inputs=[{"name": "a.png", "url": f"{files.url}/slow?trickle=1"}]))
    others = [client.run(request()) for _ in range(3)]
    start(PENNYREEL_ALLOW_HOSTS=files.host, PENNYREEL_INPUT_MAX_BYTES=str(1 << 41))
    assert [client.ended(job)["status"] for job in others] == ["COMPLETED"] * 3
    assert client.status(slow)["status"] == "IN_PROGRESS"
    assert client.post(f"cancel/{slow}")["status"] == "CANCELLED"


def test_the_next_jobs_inputs_come_in_while_a_job_is_on_the_gpu(
    session: requests.Session, start: Callable[..., ByHand], files: Files
) -> None:
    """Their sampler is not the last node, nor alone: what each took before tells the end."""
    graph = {"1": node("FakeSleep", seconds=2), **{str(n): SAVE["9"] for n in range(2, 6)}}
    inputs = [{"name": "a.png", "url": f"{files.url}/late?seconds=0.5"}]
    events: list[Event] = []
    config = PlatformConfig(endpoints={"byhand": EndpointConfig()})
    with RunPodPlatform(config, on_event=events.append) as platform:
        client = Client(platform, "byhand", session)
        jobs = [client.run(request(graph, inputs=inputs)) for _ in range(4)]
        worker = start(platform, PENNYREEL_ALLOW_HOSTS=files.host)
        assert [client.ended(job)["status"] for job in jobs] == ["COMPLETED"] * 4
        worker.process.kill()
        worker.process.wait()
    taken = {event.job_id: event.at for event in events if isinstance(event, JobTaken)}
    ended = {event.job_id: event.at for event in events if isinstance(event, JobFinished)}
    # The first of a kind is of unknown length.
    assert ended[jobs[2]] - taken[jobs[3]] > 0.3
    assert ended[jobs[2]] - taken[jobs[3]] < 2.0, "and idle workers get it first"


class ByHand:
    """A worker that the tests start, and end as they like."""

    def __init__(self, platform: RunPodPlatform, tmp_path: Path, **env: str) -> None:
        self.id = f"byhand{uuid.uuid4().hex[:8]}"
        self.mark = f"PENNYREEL_TEST_MARK={self.id}"
        self.work = tmp_path / "work"
        self.log = tmp_path / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                WORKER,
                env={
                    **PASS,
                    **platform.worker_environment("byhand", self.id),
                    "PENNYREEL_TEST_MARK": self.id,
                    "PENNYREEL_COMFYUI_COMMAND": COMMAND,
                    "PENNYREEL_WORK_DIR": str(self.work),
                    **env,
                },
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def processes(self) -> list[int]:
        # ComfyUI's environment is not the worker's; its command line names the worker's folder.
        return processes_with(self.mark, str(self.work))


@pytest.fixture
def start(platform: RunPodPlatform, tmp_path: Path) -> Iterator[Callable[..., ByHand]]:
    made: list[ByHand] = []

    def begin(at: RunPodPlatform = platform, **env: str) -> ByHand:
        made.append(ByHand(at, tmp_path, **env))
        return made[-1]

    yield begin
    for worker in made:
        for pid in worker.processes():
            os.kill(pid, signal.SIGKILL)
        worker.process.wait()


def test_a_killed_worker_takes_comfyui_and_its_pings_with_it(
    platform: RunPodPlatform, session: requests.Session, start: Callable[..., ByHand]
) -> None:
    worker, client = start(), Client(platform, "byhand", session)
    assert client.ended(client.run(request()))["status"] == "COMPLETED"
    # The worker, its ComfyUI, and what the SDK has forked for its pings.
    until(lambda: len(worker.processes()) >= 3)
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait()
    until(lambda: worker.processes() == [])


def test_a_stop_while_idle_ends_with_0_and_leaves_nothing(
    platform: RunPodPlatform, session: requests.Session, start: Callable[..., ByHand]
) -> None:
    worker, client = start(), Client(platform, "byhand", session)
    assert client.ended(client.run(request()))["status"] == "COMPLETED"
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(20) == 0, worker.log.read_text()
    assert until(lambda: worker.processes() == [])
    assert list(worker.work.iterdir()) == []


def test_a_stop_while_comfyui_still_starts_leaves_nothing(start: Callable[..., ByHand]) -> None:
    worker = start(FAKE_COMFYUI_START_S="60")
    until(lambda: len(worker.processes()) >= 2, 20)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(20) == 0, worker.log.read_text()
    assert until(lambda: worker.processes() == [])
    assert list(worker.work.iterdir()) == []


@pytest.mark.long
def test_by_an_untried_sdk_jobs_pass_one_at_a_time_and_what_comes_too_late_is_given_back(
    session: requests.Session,
) -> None:
    """Its own loop takes the jobs, and loses what it takes while it shuts down."""
    events: list[Event] = []
    lines: list[str] = []
    work = EndpointConfig(
        command=UNTRIED,
        env={**PASS, "PENNYREEL_COMFYUI_COMMAND": COMMAND},
        workers_min=1,
        workers_max=1,
        offer_after_sigterm=True,
    )
    config = PlatformConfig(endpoints={"work": work}, poll_hold_s=6.0)
    with RunPodPlatform(config, on_event=events.append, on_log=lambda *a: lines.append(a[2])) as by:
        client = Client(by, "work", session)
        until(lambda: any(isinstance(event, WorkerReady) for event in events))  # its poll is open
        os.kill(by.workers("work")[0].pid, signal.SIGTERM)
        until(lambda: any("the loop runs no more jobs" in line for line in lines))
        late = ErrorInfo.decode(client.ended(client.run(request()))["error"])
        assert (late.code, late.retryable) == ("worker_stopping", True)
        long = client.run(request({"1": node("FakeSleep", seconds=2), **SAVE}))
        short = client.run(request())
        assert client.ended(short)["status"] == client.ended(long)["status"] == "COMPLETED"
    order = [(type(e), e.job_id) for e in events if isinstance(e, (JobTaken, JobFinished))]
    assert order.index((JobTaken, short)) > order.index((JobFinished, long))
    assert any("runpod 9.9.9 is not a version that this worker was tried" in line for line in lines)
