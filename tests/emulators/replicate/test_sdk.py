"""Replicate's own SDK, unchanged, against the emulation; and our backend beside it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from typing import Any

import av
import httpx
import pytest

from pennyreel.backends.base import Prompt, Work
from pennyreel.backends.replicate import ReplicateBackend
from pennyreel.config import Secret
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_emulators.replicate import (
    MODEL,
    OUT_OF_MEMORY,
    VERSION,
    Behaviour,
    Config,
    Fault,
    RateLimit,
    ReplicatePlatform,
)

with warnings.catch_warnings():
    # The SDK uses pydantic's v1 compatibility, which warns on new Pythons.
    warnings.simplefilter("ignore")
    import replicate
    from replicate.exceptions import ModelError, ReplicateError
    from replicate.helpers import FileOutput

REF = f"{MODEL}:{VERSION}"
DELIVERY = "https://replicate.delivery"
CASE = {
    "prompt": "a paper boat in the rain",
    "negative_prompt": "blurry",
    "width": 512,
    "height": 512,
    "mp4": True,
    "seed": 7,
}


class Routed(httpx.HTTPTransport):
    """Leads Replicate's own address of files to the emulated one, as a name server would."""

    def __init__(self, platform: ReplicatePlatform) -> None:
        super().__init__()
        self._to = httpx.URL(platform.delivery_url)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.host == "replicate.delivery":
            request.url = request.url.copy_with(
                scheme="http", host=self._to.host, port=self._to.port
            )
        return super().handle_request(request)


@pytest.fixture
def platform() -> Iterator[ReplicatePlatform]:
    with ReplicatePlatform() as running:
        yield running


def client(platform: ReplicatePlatform, token: str | None = None) -> replicate.Client:
    made = replicate.Client(
        api_token=token or platform.config.token,
        base_url=platform.host_url,
        transport=Routed(platform),
    )
    made.poll_interval = 0.01
    return made


@pytest.fixture
def sdk(platform: ReplicatePlatform) -> Iterator[replicate.Client]:
    made = client(platform)
    yield made
    made._client.close()


def test_run_gives_a_file_that_plays(platform: ReplicatePlatform, sdk: replicate.Client) -> None:
    platform.configure(delivery_url=DELIVERY)
    output = sdk.run(REF, input=CASE)
    assert isinstance(output, FileOutput)
    assert output.url.startswith(f"{DELIVERY}/")
    with av.open(io.BytesIO(output.read())) as video:
        stream = video.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (512, 512, 8)
        assert len(list(video.decode(stream))) == 8
    asked = [(r.method, r.path) for r in platform.requests]
    assert asked == [
        ("POST", "/v1/predictions"),
        ("GET", f"/v1/models/{MODEL}/versions/{VERSION}"),
    ]
    assert platform.requests[0].headers["prefer"] == "wait"


def test_the_sdk_sends_its_token_to_the_origin_of_files_and_we_do_not(
    platform: ReplicatePlatform, sdk: replicate.Client
) -> None:
    platform.configure(delivery_url=DELIVERY)
    sdk.run(REF, input=CASE).read()
    assert platform.tokens_leaked == 1  # replicate 1.0.7: one httpx client for both


def test_a_wait_that_is_too_short_gives_a_prediction_that_still_runs(
    platform: ReplicatePlatform, sdk: replicate.Client
) -> None:
    platform.configure(hold_s=0.1)  # the SDK itself allows half a second beyond what it asks for
    platform.script(Behaviour(hangs=True))
    made = sdk.predictions.create(version=VERSION, input=CASE, wait=1)
    assert platform.requests[0].headers["prefer"] == "wait=1"
    assert made.status == "processing"
    assert made.output is None


def test_a_prediction_is_made_seen_waited_for_and_listed(
    platform: ReplicatePlatform, sdk: replicate.Client
) -> None:
    platform.script(Behaviour(boot_s=0.05, run_s=0.05))
    made = sdk.predictions.create(version=VERSION, input=CASE)
    assert (made.status, made.model, made.version) == ("starting", MODEL, VERSION)
    assert made.input == CASE
    made.wait()
    assert made.status == "succeeded"
    assert made.metrics is not None
    assert made.metrics["predict_time"] == pytest.approx(0.05, abs=0.001)
    assert made.progress is not None
    assert (made.progress.percentage, made.progress.total) == (1.0, 30)
    assert sdk.predictions.get(made.id).output == made.output
    assert [p.id for p in sdk.predictions.list()] == [made.id]


def test_lists_have_pages(sdk: replicate.Client, platform: ReplicatePlatform) -> None:
    platform.configure(page=2)
    ids = [sdk.predictions.create(version=VERSION, input=CASE).id for _ in range(3)]
    first = sdk.predictions.list()
    assert first.next is not None
    second = sdk.predictions.list(first.next)
    assert [p.id for p in (*first, *second)] == ids[::-1]
    assert second.next is None


def test_a_cancel_ends_a_prediction(platform: ReplicatePlatform, sdk: replicate.Client) -> None:
    platform.script(Behaviour(hangs=True))
    made = sdk.predictions.create(version=VERSION, input=CASE)
    made.cancel()
    assert made.status == "canceled"
    assert sdk.predictions.get(made.id).status == "canceled"


def test_a_model_that_fails_is_the_sdks_model_error(
    platform: ReplicatePlatform, sdk: replicate.Client
) -> None:
    platform.script(Behaviour(error=OUT_OF_MEMORY))
    with pytest.raises(ModelError, match="E1001"):
        sdk.run(REF, input=CASE)


@pytest.mark.parametrize(
    ("trouble", "status", "title"),
    [
        ({"credit": False}, 402, "Insufficient credit"),
        ({"token": "r8_another"}, 401, "Unauthenticated"),
    ],
)
def test_refusals_are_read_by_the_sdk(
    trouble: dict[str, Any],
    status: int,
    title: str,
    platform: ReplicatePlatform,
    sdk: replicate.Client,
) -> None:
    platform.configure(**trouble)
    with pytest.raises(ReplicateError) as caught:
        sdk.predictions.create(version=VERSION, input=CASE)
    assert (caught.value.status, caught.value.title) == (status, title)
    assert caught.value.detail
    assert platform.accepted == ()


@pytest.mark.parametrize(
    ("version", "given", "says"),
    [
        ("0" * 64, CASE, "does not exist"),
        (VERSION, {**CASE, "width": 500}, "input.width: width must be one of"),
        (VERSION, {**CASE, "steps": 501}, "input.steps"),
        (VERSION, {**CASE, "prompt": 5}, "input.prompt"),
    ],
)
def test_bad_requests_are_422(
    version: str, given: dict[str, Any], says: str, sdk: replicate.Client
) -> None:
    with pytest.raises(ReplicateError) as caught:
        sdk.predictions.create(version=version, input=given)
    assert caught.value.status == 422
    assert says in str(caught.value.detail)


def test_a_rate_limit_reaches_the_sdk_for_a_post_and_is_waited_out_for_a_get() -> None:
    with ReplicatePlatform(Config(creates=RateLimit(1))) as platform:
        sdk = client(platform)
        made = sdk.predictions.create(version=VERSION, input=CASE)
        with pytest.raises(ReplicateError) as caught:
            sdk.predictions.create(version=VERSION, input=CASE)
        assert caught.value.status == 429
        assert "Your rate limit resets in ~" in str(caught.value.detail)
        platform.fault("get", Fault(429, {"detail": "…"}, {"Retry-After": "0"}))
        assert sdk.predictions.get(made.id).id == made.id
        sdk._client.close()


def test_the_sdk_cannot_read_the_status_aborted(
    platform: ReplicatePlatform, sdk: replicate.Client
) -> None:
    """So it is new: SDK 1.0.7 knows five statuses. Ours takes it for a timeout."""
    platform.script(Behaviour(ends_as="aborted"))
    made = sdk.predictions.create(version=VERSION, input=CASE, wait=False)
    with pytest.raises(ValueError, match="status"):
        made.wait()


def test_account_hardware_model_and_versions_are_there(
    platform: ReplicatePlatform, sdk: replicate.Client
) -> None:
    assert sdk.accounts.current().username == platform.config.username
    assert "gpu-l40s" in {h.sku for h in sdk.hardware.list()}
    model = sdk.models.get(MODEL)
    assert (model.id, model.visibility) == (MODEL, "public")
    assert [v.id for v in model.versions.list()] == [VERSION]
    assert model.versions.get(VERSION).openapi_schema["components"]["schemas"]["Output"]
    with pytest.raises(ReplicateError):
        sdk.models.get("nobody/nothing")


def test_a_model_that_is_not_official_is_not_run_without_a_version(sdk: replicate.Client) -> None:
    with pytest.raises(ReplicateError) as caught:
        sdk.run(MODEL, input=CASE)
    assert caught.value.status == 404


def test_files_are_kept_and_removed(sdk: replicate.Client) -> None:
    made = sdk.files.create(io.BytesIO(b"a picture"), filename="a.png", metadata={"n": 1})
    assert (made.name, made.size, made.content_type) == ("a.png", 9, "image/png")
    assert sdk.files.get(made.id).metadata == {"n": 1}
    assert sdk._client.get(made.urls["get"]).content == b"a picture"
    assert [f.id for f in sdk.files.list()] == [made.id]
    assert sdk.files.delete(made.id)
    with pytest.raises(ReplicateError):
        sdk.files.get(made.id)


def test_the_sdk_and_our_backend_send_the_same_case_and_get_the_same_file(
    platform: ReplicatePlatform, sdk: replicate.Client
) -> None:
    platform.configure(delivery_url=DELIVERY)
    theirs = sdk.run(REF, input=CASE, wait=False).read()
    platform.configure(delivery_url="")
    prompt = Prompt(CASE["prompt"], negative="blurry", width=512, height=512, format="mp4")
    ours = _Sink()
    one = ReplicateBackend(Secret(platform.config.token), base_url=platform.base_url)
    handle = one.submit(Work("a" * 32, {}, seed=7, prompt=prompt))
    result = one.follow(
        handle, on_event=lambda _: None, deadline=Deadline(20), cancel=CancelToken()
    )
    one.fetch(handle, result.artifacts[0], ours, CancelToken())
    one.close()
    first, second = [r for r in platform.requests if r.method == "POST"]
    assert (first.path, first.json) == (second.path, second.json)
    assert first.json == {"version": VERSION, "input": CASE}
    assert first.headers["authorization"] == second.headers["authorization"]
    assert first.headers["content-type"] == second.headers["content-type"] == "application/json"
    assert ours.data == theirs


class _Sink:
    def __init__(self) -> None:
        self.data = b""

    size = property(lambda self: len(self.data))
    sha256 = ""

    def write(self, data: bytes) -> None:
        self.data += data

    def restart(self) -> None:
        self.data = b""
