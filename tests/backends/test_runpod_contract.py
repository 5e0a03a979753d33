"""RunPod against the emulated platform, with and without the worker's bucket."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import requests
from typing_extensions import Self

from backends.contract import BackendContract
from backends.rig import Rig, Scene
from client.support import KEY, Reply, Request, Scripted, Worker
from fakes.ports import dead_port
from fakes.waits import eventually
from pennyreel import _s3
from pennyreel.backends import _runpod_follow as following
from pennyreel.backends import runpod as module
from pennyreel.backends.base import Backend
from pennyreel.backends.runpod import DevBackend, RunPodBackend
from pennyreel.config import S3, Secret, Settings, load
from pennyreel.devstack.s3 import LocalS3
from pennyreel.errors import OutcomeUnknown, SetupNeeded
from pennyreel.need import Need, Unit, Usage
from pennyreel.types import Handle
from pennyreel_comfy.waiting import Deadline
from pennyreel_contract import Code, ErrorInfo, Gpu, Progress, Result
from pennyreel_emulators.runpod import (
    EndpointConfig,
    JobFinished,
    JobQueued,
    PlatformConfig,
    RunPodPlatform,
)

CONTENT = b"what the worker made, in PNG" * 10
PRIVATE_URL = "https://10.11.12.13/clip.png"


class RunPodRig(Rig):
    """A door before the emulated platform, a worker behind it, and a host that is not ours."""

    secrets = (KEY,)
    content = CONTENT

    def __init__(self, bucket: S3 | None = None) -> None:
        self._scene = Scene.SUCCEED
        self._bucket = bucket
        self._files = 0
        self._seen: dict[str, int] = {}
        self._stack = ExitStack()
        config = PlatformConfig({"ep": EndpointConfig()}, api_key=KEY, poll_hold_s=0.1)
        self._platform = RunPodPlatform(config)
        self._door = Scripted(self._answer)
        self._other = Scripted(lambda _: Reply(body=CONTENT))
        self._over = threading.Event()
        self._hand = threading.Thread(target=self._work, name="worker by hand")

    def __enter__(self) -> Self:
        for part in (self._platform, self._door, self._other):
            self._stack.enter_context(part)  # type: ignore[arg-type]
        self._hand.start()
        self.settings = self._settings(self._door.url)
        self.dead = self._settings(f"http://127.0.0.1:{dead_port()}")
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._hand.join(20)
        self._stack.close()

    def play(self, scene: Scene) -> None:
        self._scene = scene

    @property
    def submits(self) -> int:
        return len([r for r in self._door.requests if r.path.endswith("/run")])

    @property
    def accepted(self) -> int:
        return len([e for e in self._platform.events if isinstance(e, JobQueued)])

    def ended(self) -> bool:
        return any(isinstance(e, JobFinished) for e in self._platform.events)

    def stopped(self, handle: Handle) -> bool:
        ended = [e for e in self._platform.events if isinstance(e, JobFinished)]
        return any(e.job_id == handle.remote_id and e.status == "CANCELLED" for e in ended)

    def urls(self) -> list[str]:
        return [r.path for r in self._door.requests]

    def elsewhere(self) -> list[Request]:
        return self._other.requests

    def _settings(self, url: str) -> Settings:
        found = load(
            runpod_api_key=KEY, runpod_endpoint="ep", runpod_base_url=f"{url}/v2",
            runpod_gpu="AMPERE_24",
        )  # fmt: skip
        s3 = self._bucket
        if s3 is None:
            return found
        gone = replace(s3, endpoint=s3.endpoint if url == self._door.url else url)
        return replace(
            found, s3_endpoint=gone.endpoint, s3_bucket=s3.bucket, s3_key=s3.key,
            s3_secret=s3.secret, s3_region=s3.region,
        )  # fmt: skip

    def _answer(self, request: Request) -> Reply | None:
        if request.path.startswith("/files/"):
            return self._file()
        if request.path.endswith("/run"):
            return self._submit(request)
        if self._scene is Scene.UNAUTHORIZED:
            return Reply(401)
        if "/status/" in request.path:
            return self._status(request)
        if "/cancel/" in request.path and self._scene is Scene.DEAF:
            return Reply(body={"id": "x", "status": "IN_PROGRESS"})
        return self._pass_on(request)

    def _submit(self, request: Request) -> Reply | None:
        refusals = {
            Scene.BROKEN: Reply(500, b"oops"),
            Scene.RATE_LIMITED: Reply(429, b"slow down", {"Retry-After": "7"}),
            Scene.UNAUTHORIZED: Reply(401),
            Scene.UNPAID: Reply(402, {"error": "no credit"}),
            Scene.INVALID: Reply(400, {"error": "no"}),
            Scene.REDIRECT: Reply(307, b"", {"Location": f"{self._other.url}/v2/ep/run"}),
        }
        if self._scene in refusals:
            return refusals[self._scene]
        if self._scene is Scene.NEVER_CAME:
            return None
        reply = self._pass_on(request)
        if self._scene is Scene.LOST:
            return None
        return Reply(body=b"<html>") if self._scene is Scene.GARBLED else reply

    def _status(self, request: Request) -> Reply:
        job = request.path.rpartition("/")[2]
        self._seen[job] = self._seen.get(job, 0) + 1
        if self._scene is Scene.EXPIRED:
            return Reply(404, {"error": "job not found"})
        reply = self._pass_on(request)
        body = json.loads(reply.encode())
        if self._scene is Scene.STRANGE and body["status"] == "IN_PROGRESS":
            return Reply(body={**body, "status": "PONDERING"})
        return reply

    def _file(self) -> Reply:
        self._files += 1
        if self._scene is Scene.DAMAGED:
            return Reply(body=CONTENT[:-1] + b"?")
        return Reply(
            body=CONTENT, cut_at=20 if self._scene is Scene.CUT and self._files < 2 else None
        )

    def _pass_on(self, request: Request) -> Reply:
        with requests.Session() as session:
            session.trust_env = False
            url = self._platform.base_url + request.path.removeprefix("/v2")
            told = {"Authorization": request.headers["Authorization"]}
            answer = session.request(
                request.method, url, data=request.body, headers=told, timeout=20
            )
            return Reply(answer.status_code, answer.content)

    # The worker.

    def _work(self) -> None:
        with Worker(self._platform, "ep") as worker:
            while not self._over.is_set():
                reply = worker._session.get(f"{worker._base}/job-take/w1", timeout=30)
                if reply.status_code == 200:
                    self._serve(worker, reply.json())

    def _serve(self, worker: Worker, job: dict[str, Any]) -> None:
        if self._scene in {Scene.HANG, Scene.DEAF}:
            return
        if self._scene is Scene.FAIL:
            worker.fail(job, ErrorInfo.make(Code.EXECUTION_FAILED, "KSampler: no").encode())
            return
        if self._scene in {Scene.SLOW, Scene.STRANGE}:
            worker.progress(job, Progress(percent=40, stage="executing").wire())
            eventually(lambda: self._seen.get(job["id"], 0) > 2 or self._over.is_set())
        worker.succeed(job, self._store(job["input"]["attempt_id"]))

    def _store(self, attempt_id: str) -> dict[str, Any]:
        """Deliver the file, and the result where there is a bucket, as our worker does."""
        where = {
            Scene.PRIVATE: PRIVATE_URL,
            Scene.ELSEWHERE: f"{self._other.url}/clip.png",
        }.get(self._scene, f"{self._door.url}/files/clip.png?X-Amz-Signature=x")
        made = {
            "name": "clip.png", "kind": "image", "mime": "image/png", "bytes": len(CONTENT),
            "sha256": hashlib.sha256(CONTENT).hexdigest(), "url": where,
        }  # fmt: skip
        if self._bucket is not None:
            client = _s3._client(self._bucket)
            key = f"outputs/{attempt_id}/clip.png"
            client.put_object(Bucket=self._bucket.bucket, Key=key, Body=CONTENT)
            kept = {
                **made,
                "url": "https://expired.example/x",
                "s3": f"s3://{self._bucket.bucket}/{key}",
            }
            body = {
                "digest": "0",
                "result": {"contract": 1, "attempt_id": attempt_id, "artifacts": [kept]},
            }
            client.put_object(
                Bucket=self._bucket.bucket, Key=f"results/{attempt_id}.json",
                Body=json.dumps(body).encode(),
            )  # fmt: skip
            client.close()
        return made


class TestRunPod(BackendContract):
    backend = RunPodBackend
    gone = OutcomeUnknown
    keys: ClassVar = {"runpod_api_key": "RUNPOD_API_KEY", "runpod_endpoint": "RUNPOD_ENDPOINT_ID"}
    lacks: ClassVar = {
        Scene.FILTERED: "a ComfyUI does not judge content",
        Scene.BUSY: "no 5xx of POST /run is documented as a refusal",
    }

    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(following, "POLL_S", (0.005, 0.02))
        monkeypatch.setattr(module, "CONFIRM_S", 1.0)

    def open(self, settings: Settings, target: str | None = None) -> Backend:
        one = RunPodBackend.open(settings, target)
        one._api._pause = lambda _: None
        return one

    @pytest.fixture
    def rig(self) -> Iterator[Rig]:
        with RunPodRig() as rig:
            yield rig

    def test_seconds_are_runpod_s_own_or_the_worker_s(self) -> None:
        one = RunPodBackend("ep", Secret(KEY), gpu="ADA_24")
        need = Need(workflow=True)
        before = one.usage(need)
        assert (before.sku, before.startup_s, before.idle_s) == ("runpod/ADA_24", 120.0, 10.0)
        gpu = Gpu(name="RTX 4090", seconds=3.5)
        for result, amount, startup in (
            (
                Result(
                    attempt_id="a",
                    timings={"platform_execute": 4.2, "platform_queue": 0.3},
                    gpu=gpu,
                ),
                4.2,
                0.3,
            ),
            (Result(attempt_id="a", timings={"platform_queue": 999.0}, gpu=gpu), 3.5, 120.0),
            (Result(attempt_id="a", gpu=gpu, replayed=True), None, 120.0),
        ):
            after = one.billed(need, result)
            assert (after.amount, after.startup_s, after.idle_s) == (amount, startup, 10.0)

    def test_another_endpoint_has_not_the_gpu_of_the_configured_one(self, rig: Rig) -> None:
        assert self.open(rig.settings).usage(Need()).sku == "runpod/AMPERE_24"
        assert self.open(rig.settings, "other").usage(Need()).sku == "runpod/other"


def test_the_dev_stack_costs_nothing_and_names_its_command(home: Path) -> None:
    with pytest.raises(SetupNeeded, match="dev stack") as caught:
        DevBackend.open(load())
    assert "pennyreel dev" in caught.value.hint
    home.mkdir()
    stack = {"base_url": "http://127.0.0.1:1/v2", "endpoint": "ep", "api_key": KEY, "pid": 1}
    (home / "dev.json").write_text(json.dumps(stack))
    one = DevBackend.open(load())
    told = Result(attempt_id="a", timings={"platform_execute": 2.0, "platform_queue": 9.0})
    assert one.usage(Need()) == Usage("local", Unit.GPU_SECOND, None)
    assert one.billed(Need(), told) == Usage("local", Unit.GPU_SECOND, 2.0)
    assert one.abilities().private
    assert not one.abilities().looks_up
    assert KEY not in repr(one)


@pytest.fixture(scope="module")
def bucket() -> Iterator[S3]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        store = LocalS3()
        store.start()
        told = store.client_settings()
        yield S3(
            told["endpoint"], told["bucket"], Secret(told["key"]), Secret(told["secret"]),
            told["region"],
        )  # fmt: skip
        store.close()


class TestRunPodWithTheWorkersBucket(TestRunPod):
    @pytest.fixture
    def rig(self, bucket: S3) -> Iterator[Rig]:
        with RunPodRig(bucket) as rig:
            assert bucket.secret is not None
            rig.secrets = (KEY, bucket.secret.reveal())
            yield rig

    def test_a_result_that_is_gone_says_so(
        self, rig: Rig, one: Backend, opened: Any, told: Any
    ) -> None:
        """It is not gone: what RunPod has forgotten the bucket has."""
        rig.play(Scene.EXPIRED)
        assert isinstance(rig, RunPodRig)
        handle = one.submit(self.work(), Deadline(60))
        eventually(rig.ended)
        later = opened(None, handle.target)
        result = self.follow(later, handle, told)
        assert bytes(self.fetch(later, handle, result).data) == CONTENT

    def test_a_stored_result_is_found_followed_and_fetched_by_anybody_with_the_bucket(
        self, rig: Rig, opened: Any, told: Any
    ) -> None:
        rig.play(Scene.LOST)
        work = self.work()
        with pytest.raises(OutcomeUnknown):
            opened().submit(work, Deadline(60))
        handle = Handle.parse(str(self.found(opened(), work.attempt_id)))
        later = opened(None, handle.target)
        result = self.follow(later, handle, told)
        assert bytes(self.fetch(later, handle, result).data) == CONTENT
        assert later.cancel(handle) is True
        assert rig.accepted == 1
