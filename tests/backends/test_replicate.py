"""Replicate against its emulation: the contract suite, and what is Replicate's own."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from backends.contract import BackendContract
from backends.rig import Rig, Scene, Store
from client.support import Request
from fakes.ports import dead_port
from pennyreel.backends import _replicate_follow as follow_module
from pennyreel.backends.base import Prompt, Work
from pennyreel.backends.replicate import LONGEST_S, ReplicateBackend, minted_seed
from pennyreel.config import Secret, Settings, load
from pennyreel.errors import (
    BadRequest,
    JobCancelled,
    JobFailed,
    JobTimeout,
    OutcomeUnknown,
    SetupNeeded,
    Unavailable,
)
from pennyreel.need import Need, Unit, Usage
from pennyreel.sources import Source
from pennyreel.types import Handle, Progressed, Queued, Started
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Result
from pennyreel_emulators.replicate import (
    INTERRUPTED,
    NSFW,
    OUT_OF_MEMORY,
    VERSION,
    Behaviour,
    Config,
    Fault,
    RateLimit,
    ReplicatePlatform,
)
from pennyreel_emulators.replicate.hotshot import render

TOKEN = "r8_SECRET_never_shown_0123456789"
TEXT = "a paper boat in the rain"
NEED = Need(kind="video", seed=True)
INVALID = {
    "title": "Input validation failed",
    "detail": "- input.width: width must be one of the following: 256\n",
    "status": 422,
    "invalid_fields": [{"type": "enum", "field": "input.width", "description": "…"}],
}
MANY = 10_000


def job(seed: int | None = 7, **prompt: Any) -> Work:
    text = prompt.pop("text", TEXT)
    options = {name: prompt.pop(name) for name in ("timeout_s",) if name in prompt}
    return Work(
        uuid.uuid4().hex, {}, seed=seed, prompt=Prompt(text, **prompt), need=NEED, **options
    )


class ReplicateRig(Rig):
    """The emulated Replicate, one scene at a time."""

    secrets = (TOKEN,)

    def __init__(self, platform: ReplicatePlatform, home: Path) -> None:
        self.platform = platform
        self.settings = Settings(
            home=home,
            replicate_api_token=Secret(TOKEN),
            replicate_base_url=platform.base_url,
        )
        nobody = f"http://127.0.0.1:{dead_port()}"
        self.dead = replace(self.settings, replicate_base_url=nobody)
        self.content = render({"prompt": TEXT, "mp4": True, "seed": 7}, 7)[1]

    def play(self, scene: Scene) -> None:
        changes, fault, operation = self._scene(scene)
        self.platform.configure(**{"behaviour": Behaviour(), **changes})
        if fault is not None:
            self.platform.fault(operation, fault)

    def _scene(self, scene: Scene) -> tuple[dict[str, Any], Fault | None, str]:
        slow = Behaviour(boot_s=0.05, run_s=0.1)
        behaviours = {
            Scene.SLOW: slow,
            Scene.STRANGE: replace(slow, told_as="rebalancing"),
            Scene.FAIL: Behaviour(error=OUT_OF_MEMORY),
            Scene.FILTERED: Behaviour(error=NSFW),
            Scene.HANG: Behaviour(hangs=True),
            Scene.DEAF: Behaviour(hangs=True, cancel="ignored"),
            Scene.LOST: Behaviour(answer="lost"),
            Scene.GARBLED: Behaviour(answer="garbled"),
        }
        changes: dict[Scene, dict[str, Any]] = {
            Scene.UNAUTHORIZED: {"token": "r8_another_account"},
            Scene.UNPAID: {"credit": False},
            Scene.EXPIRED: {"retention_s": 0.0},
            Scene.PRIVATE: {"delivery_url": "https://10.11.12.13"},
        }
        elsewhere = {"Location": f"{self.platform.delivery_url}/v1/predictions"}
        throttled = {"detail": "Request was throttled. Your rate limit resets in ~7s."}
        faults = {
            Scene.NEVER_CAME: Fault(times=MANY),
            Scene.BROKEN: Fault(502, "<html>bad gateway</html>", times=MANY),
            Scene.RATE_LIMITED: Fault(429, throttled, {"Retry-After": "7"}, times=MANY),
            Scene.INVALID: Fault(422, INVALID, times=MANY),
            Scene.REDIRECT: Fault(307, None, elsewhere, times=MANY),
            Scene.CUT: Fault(cut_at=20),
        }
        if scene in behaviours:
            return {"behaviour": behaviours[scene]}, None, ""
        return changes.get(scene, {}), faults.get(scene), "file" if scene is Scene.CUT else "create"

    @property
    def submits(self) -> int:
        asked = self.platform.requests
        return sum(r.method == "POST" and r.path.endswith("/predictions") for r in asked)

    @property
    def accepted(self) -> int:
        return len(self.platform.accepted)

    def stopped(self, handle: Handle) -> bool:
        return self.platform.status(handle.remote_id) in {"canceled", "aborted"}

    def urls(self) -> list[str]:
        return [r.path for r in (*self.platform.requests, *self.platform.downloads)]

    def elsewhere(self) -> list[Request]:
        return [Request(r.method, r.path, dict(r.headers), b"") for r in self.platform.downloads]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow_module, "POLL_S", (0.005, 0.02))


@pytest.fixture
def platform() -> Iterator[ReplicatePlatform]:
    with ReplicatePlatform(Config(token=TOKEN)) as running:
        yield running


@pytest.fixture
def one(platform: ReplicatePlatform) -> Iterator[ReplicateBackend]:
    backend = ReplicateBackend(
        Secret(TOKEN), base_url=platform.base_url, pause=lambda _: None, confirm_s=2.0
    )
    yield backend
    backend.close()


class TestReplicate(BackendContract):
    backend = ReplicateBackend
    keys: ClassVar = {"replicate_api_token": "REPLICATE_API_TOKEN"}
    lacks: ClassVar = {
        Scene.BUSY: "its documentation calls no 5xx a refusal",
        Scene.DAMAGED: "it tells neither the size nor the sha256 of its files",
    }

    @pytest.fixture
    def rig(self, platform: ReplicatePlatform, tmp_path: Path) -> ReplicateRig:
        return ReplicateRig(platform, tmp_path)

    def open(self, settings: Settings, target: str | None = None) -> ReplicateBackend:
        backend = ReplicateBackend.open(settings, target)
        backend._account = replace(backend._account, confirm_s=0.3)
        backend._api._pause = lambda _: None
        return backend

    def work(self, **changes: Any) -> Work:
        return replace(job(), **changes)


def follow(
    one: ReplicateBackend, handle: Handle, events: list[Any] | None = None, seconds: float = 20.0
) -> Result:
    told: list[Any] = [] if events is None else events
    return one.follow(
        handle, on_event=told.append, deadline=Deadline(seconds), cancel=CancelToken()
    )


def create(platform: ReplicatePlatform) -> Any:
    (asked,) = [r for r in platform.requests if r.method == "POST"]
    return asked


# What is sent.


def test_a_prompt_alone_leaves_the_rest_to_the_model(
    platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    one.submit(job())
    asked = create(platform)
    assert asked.path == "/v1/predictions"
    assert asked.json == {"version": VERSION, "input": {"prompt": TEXT, "mp4": True, "seed": 7}}
    assert asked.headers["authorization"] == f"Bearer {TOKEN}"
    assert asked.headers["cancel-after"] == f"{LONGEST_S:.0f}s"


def test_every_wish_that_the_model_has_is_passed_on(
    platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    one.submit(job(negative="blurry", width=512, height=768, format="gif", frames=8, seconds=1.0))
    assert create(platform).json["input"] == {
        "prompt": TEXT,
        "negative_prompt": "blurry",
        "width": 512,
        "height": 768,
        "mp4": False,
        "seed": 7,
    }


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ({"width": 500}, "500"),
        ({"height": 1280}, "1280"),
        ({"frames": 16}, "16"),
        ({"seconds": 2.0}, "1 s"),
        ({"format": "webm"}, "webm"),
        ({"kind": "image"}, "image"),
        ({"audio": True}, "sound"),
        ({"text": "  "}, "prompt"),
        ({"image": Source("a.png", url="https://files.example/a.png")}, "image"),
    ],
)
def test_less_than_what_is_asked_for_is_never_sent(
    wish: dict[str, Any], says: str, platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    with pytest.raises(BadRequest, match=says):
        one.submit(job(**wish))
    assert platform.requests == ()


def test_a_job_without_a_seed_gets_one_by_which_a_person_finds_it(
    platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    platform.script(Behaviour(answer="lost"))
    work = job(seed=None)
    with pytest.raises(OutcomeUnknown) as caught:
        one.submit(work)
    sent = create(platform).json["input"]["seed"]
    assert sent == minted_seed(work.attempt_id)
    assert str(sent) in caught.value.hint
    assert TEXT not in caught.value.info.model_dump_json()


@pytest.mark.parametrize(
    ("timeout_s", "deadline_s", "sent"),
    [(None, None, 300), (60.0, None, 60), (3600.0, None, 300), (None, 42.0, 42), (1.0, 90.0, 5)],
)
def test_the_server_has_a_deadline_of_its_own(
    timeout_s: float | None,
    deadline_s: float | None,
    sent: int,
    platform: ReplicatePlatform,
    one: ReplicateBackend,
) -> None:
    one.submit(job(timeout_s=timeout_s), Deadline(deadline_s))
    assert create(platform).headers["cancel-after"] == f"{sent}s"


def test_a_large_seed_stays_the_same_number_everywhere(
    platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    one.submit(job(seed=2**64 - 1))
    assert create(platform).json["input"]["seed"] == 2**53 - 1


def test_an_official_model_is_run_by_its_name(platform: ReplicatePlatform) -> None:
    one = ReplicateBackend(
        Secret(TOKEN), model="me/hotshot", version=None, base_url=platform.base_url
    )
    with pytest.raises(SetupNeeded, match="does not have"):
        one.submit(job())
    assert create(platform).path == "/v1/models/me/hotshot/predictions"
    one.close()


# What comes of it.


def test_a_clip_comes_with_its_bill_its_seed_and_its_end(
    platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    platform.script(Behaviour(boot_s=0.05, run_s=0.1))
    events: list[Any] = []
    handle = one.submit(job())
    result = follow(one, handle, events)
    (clip,) = result.artifacts
    assert (clip.name, clip.kind, clip.mime) == ("output.mp4", "video", "video/mp4")
    assert clip.url_expires is not None
    assert result.seed == 7
    (bill,) = platform.billed
    assert one.billed(NEED, result) == Usage(
        "replicate/hotshot-xl", Unit.GPU_SECOND, pytest.approx(bill.seconds, abs=1e-5)
    )
    assert result.timings["platform_queue"] == pytest.approx(0.05, abs=0.01)
    assert events[0] == Queued()
    assert Started() in events
    steps = [e for e in events if isinstance(e, Progressed)]
    assert steps
    assert steps[-1].steps == 30


def test_a_file_is_fetched_without_the_token(
    platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    handle = one.submit(job(format="gif"))
    result = follow(one, handle)
    sink = Store()
    one.fetch(handle, result.artifacts[0], sink, CancelToken())
    assert bytes(sink.data[:6]) == b"GIF89a"
    assert len(platform.downloads) == 1
    assert platform.tokens_leaked == 0


@pytest.mark.parametrize("form", ["list", "data"])
def test_other_forms_of_output_are_read(
    form: Any, platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    platform.script(Behaviour(output=form))
    handle = one.submit(job())
    result = follow(one, handle)
    sink = Store()
    one.fetch(handle, result.artifacts[0], sink, CancelToken())
    assert b"ftyp" in bytes(sink.data[:16])
    assert result.artifacts[0].name == "output.mp4"


@pytest.mark.parametrize(
    ("says", "code", "retryable", "named"),
    [
        (OUT_OF_MEMORY, "out_of_memory", False, "E1001"),
        ("Unknown error (E1000)", "execution_failed", True, "E1000"),
        ("Timeout starting prediction (E6716)", "execution_failed", True, "E6716"),
        (INTERRUPTED, "execution_failed", True, "PA"),
        (NSFW, "execution_failed", False, None),
        ("Director: unexpected error handling prediction (E9828)", "execution_failed", True,
         "E9828"),
        ("CUDA error: device-side assert", "execution_failed", False, None),
    ],
)  # fmt: skip
def test_a_failure_is_told_by_replicates_own_code(
    says: str,
    code: str,
    retryable: bool,
    named: str | None,
    platform: ReplicatePlatform,
    one: ReplicateBackend,
) -> None:
    platform.script(Behaviour(error=says, run_s=0.03))
    with pytest.raises(JobFailed) as caught:
        follow(one, one.submit(job()))
    problem = caught.value
    assert (problem.code, problem.retryable) == (code, retryable)
    assert says in str(problem)
    assert problem.info.detail["replicate_code"] == named
    assert problem.info.detail["gpu_seconds"] == pytest.approx(0.03, abs=0.001)
    assert len(platform.accepted) == 1


def test_a_job_that_never_started_in_time_is_a_timeout_that_cost_nothing(one_slow: Any) -> None:
    platform, one, clock = one_slow
    platform.script(Behaviour(boot_s=1000.0))
    handle = one.submit(job(timeout_s=60.0))
    clock.now += 61.0
    with pytest.raises(JobTimeout, match="not billed") as caught:
        follow(one, handle)
    assert caught.value.info.detail["confirmed_stopped"] is True
    assert caught.value.info.detail["gpu_seconds"] == 0.0
    assert platform.billed == ()


def test_a_job_that_hangs_is_ended_by_the_server_and_costs_what_it_ran(one_slow: Any) -> None:
    platform, one, clock = one_slow
    platform.script(Behaviour(boot_s=10.0, hangs=True))
    handle = one.submit(job(timeout_s=60.0))
    clock.now += 500.0
    with pytest.raises(JobTimeout) as caught:
        follow(one, handle)
    assert caught.value.info.detail["gpu_seconds"] == 50.0
    assert [b.seconds for b in platform.billed] == [50.0]


def test_a_job_that_was_cancelled_by_hand_is_told_as_that(
    platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    platform.script(Behaviour(hangs=True))
    handle = one.submit(job())
    assert one.cancel(handle) is True
    with pytest.raises(JobCancelled) as caught:
        follow(one, handle)
    assert caught.value.info.detail["confirmed_stopped"] is True


def test_a_cancel_is_confirmed_by_a_look_and_not_by_its_own_answer(
    platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    platform.script(Behaviour(hangs=True))
    handle = one.submit(job())
    platform.fault("get", Fault(503, None, times=2))
    assert one.cancel(handle) is True
    asked = [(r.method, r.path.rpartition("/")[2]) for r in platform.requests[1:]]
    assert asked[-1] == ("GET", handle.remote_id)


def test_a_job_that_was_faster_than_its_deadline_counts(one_slow: Any) -> None:
    platform, one, clock = one_slow
    platform.script(Behaviour(cancel="ignored", run_s=5.0))
    handle = one.submit(job())
    clock.now += 6.0
    assert follow(one, handle, seconds=0.0).artifacts
    assert platform.status(handle.remote_id) == "succeeded"


def test_a_result_is_gone_an_hour_after_its_end_and_that_is_no_failure_of_the_job(
    one_slow: Any,
) -> None:
    platform, one, clock = one_slow
    handle = one.submit(job())
    clock.now += 1.0
    result = follow(one, handle)
    clock.now += 3600.0
    with pytest.raises(JobFailed, match="an hour") as caught:
        one.fetch(handle, result.artifacts[0], Store(), CancelToken())
    assert caught.value.code == "result_expired"
    with pytest.raises(JobFailed, match="an hour") as caught:
        follow(one, handle)
    assert caught.value.code == "result_expired"
    assert len(platform.accepted) == 1


def test_a_success_without_a_file_is_told_with_its_cost(
    platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    platform.script(Behaviour(output="none", run_s=0.05))
    with pytest.raises(JobFailed) as caught:
        follow(one, one.submit(job()))
    assert caught.value.code == "output_missing"
    assert caught.value.info.detail["gpu_seconds"] == pytest.approx(0.05, abs=0.001)


# Trouble on the way.


@pytest.mark.parametrize(
    "trouble",
    [
        Fault(500, None, times=2),
        Fault(503, "<html>", times=2),
        Fault(times=2),
        Fault(404, {"detail": "not found"}, times=2),
        Fault(200, "<html>not json</html>", times=2),
        Fault(429, {"detail": "Request was throttled. Your rate limit resets in ~0s."}, times=2),
    ],
)
def test_trouble_in_mid_job_is_looked_through(
    trouble: Fault, platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    platform.fault("get", trouble)
    assert follow(one, one.submit(job())).artifacts
    assert len(platform.accepted) == 1


def test_an_api_that_stays_away_leaves_the_outcome_unknown_with_the_handle(
    platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    handle = one.submit(job())
    one._account = replace(one._account, down_grace_s=0.05)
    platform.fault("get", Fault(502, None, times=MANY))
    with pytest.raises(OutcomeUnknown) as caught:
        follow(one, handle)
    assert str(handle) in caught.value.hint


def test_a_prediction_of_another_account_is_not_taken_for_a_failed_one(
    platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    with pytest.raises(OutcomeUnknown, match="knows no prediction"):
        follow(one, Handle("replicate", one.target, "nobodys", "a" * 32))


def test_a_token_that_is_refused_in_mid_job_is_told_at_once(
    platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    handle = one.submit(job())
    platform.configure(token="r8_another_account")
    with pytest.raises(SetupNeeded, match="token"):
        follow(one, handle)


@pytest.mark.parametrize(("headers", "waits"), [({}, 30.0), ({"Retry-After": "7"}, 7.0)])
def test_a_rate_limit_is_told_by_its_header_or_by_its_words(
    headers: dict[str, str], waits: float, platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    says = {"detail": "Request was throttled. Your rate limit resets in ~30s."}
    platform.fault("create", Fault(429, says, headers))
    with pytest.raises(Unavailable) as caught:
        one.submit(job())
    assert caught.value.info.detail["retry_after_s"] == waits
    assert len(platform.requests) == 1


def test_an_account_without_a_payment_method_is_throttled() -> None:
    config = Config(token=TOKEN, creates=RateLimit(1, 1.0))
    with ReplicatePlatform(config, clock=lambda: 100.0) as platform:
        one = ReplicateBackend(Secret(TOKEN), base_url=platform.base_url)
        one.submit(job())
        with pytest.raises(Unavailable, match="resets in") as caught:
            one.submit(job())
        assert caught.value.info.detail["retry_after_s"] == 1.0
        assert len(platform.accepted) == 1
        one.close()


def test_an_empty_account_is_sent_to_the_billing_page(
    platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    platform.configure(credit=False)
    with pytest.raises(SetupNeeded) as caught:
        one.submit(job())
    assert "https://replicate.com/account/billing" in caught.value.hint


def test_a_version_that_is_gone_is_a_matter_of_setup(platform: ReplicatePlatform) -> None:
    one = ReplicateBackend(Secret(TOKEN), version="0" * 64, base_url=platform.base_url)
    health = one.health()
    assert not health.reachable
    assert "PENNYREEL_REPLICATE_VERSION" in health.hint
    with pytest.raises(SetupNeeded) as caught:
        one.submit(job())
    assert "PENNYREEL_REPLICATE_VERSION" in caught.value.hint
    one.close()


# Settings.


def test_the_base_url_may_be_written_as_either_sdk_wants_it(
    platform: ReplicatePlatform, tmp_path: Path
) -> None:
    for url in (platform.host_url, platform.base_url, f"{platform.base_url}/"):
        settings = load(
            {"REPLICATE_API_TOKEN": TOKEN, "REPLICATE_BASE_URL": url, "PENNYREEL_HOME": "home"}
        )
        one = ReplicateBackend.open(settings)
        assert one.health().reachable
        one.close()


def test_another_model_does_not_get_the_known_ones_version(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, replicate_api_token=Secret(TOKEN))
    assert ReplicateBackend.open(settings)._version == VERSION
    assert ReplicateBackend.open(settings, "me/fork")._version is None
    assert ReplicateBackend.open(settings, "me/fork:abc")._version == "abc"
    mine = replace(settings, replicate_model="me/fork", replicate_version="def")
    assert ReplicateBackend.open(mine)._version == "def"
    assert ReplicateBackend.open(mine, "lucataco/hotshot-xl")._version == VERSION
    priced = replace(settings, replicate_hardware="a100-80")
    assert ReplicateBackend.open(priced).usage(NEED).sku == "replicate/a100-80"


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def one_slow() -> Iterator[tuple[ReplicatePlatform, ReplicateBackend, Callable[[], float]]]:
    """A platform whose clock stands still until it is moved."""
    clock = _Clock()
    with ReplicatePlatform(Config(token=TOKEN), clock=clock) as platform:
        backend = ReplicateBackend(Secret(TOKEN), base_url=platform.base_url, confirm_s=2.0)
        yield platform, backend, clock
        backend.close()
