"""A backend that quotes the prompt in its failures does not get it into the books."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from client.routing.conftest import Ran
from client.support import KEY, Reply, Request, Scripted
from pennyreel.money.ledger import Ledger
from pennyreel_comfy.echoes import unquoted
from pennyreel_emulators import google, huggingface
from pennyreel_emulators.replicate import Behaviour, Config, ReplicatePlatform

Cli = Callable[..., Ran]
PROMPT = 'A paper boat that "nobody" else\u2019s eyes may see\nin the rain'
NEGATIVE = "ugly things that nobody may read of"
TOLD = f"the model failed on prompt {PROMPT!r} (negative: {NEGATIVE.upper()}), at step 3"
PIECES = ('"nobody"', "eyes may see", "in the rain", "NOBODY", "ugly")
NO_NEGATIVE = {"gemini", "huggingface"}


class World:
    """Every hosted backend, each of which fails with the prompt in its words."""

    def __init__(self, stack: ExitStack, env: Callable[[str, str], None]) -> None:
        rep = stack.enter_context(ReplicatePlatform(Config(token=KEY)))
        rep.configure(behaviour=Behaviour(error=TOLD))
        env("REPLICATE_API_TOKEN", KEY)
        env("REPLICATE_BASE_URL", rep.base_url)
        plan = google.Plan(end="failed", error=TOLD)
        config = google.GoogleConfig(api_key=KEY, access_tokens=(KEY,), plan=plan)
        apis = stack.enter_context(google.GoogleApis(config))
        env("GEMINI_API_KEY", KEY)
        env("PENNYREEL_VERTEX_TOKEN", KEY)
        env("GOOGLE_CLOUD_PROJECT", "emulated-project")
        for name in ("GOOGLE_GEMINI_BASE_URL", "GOOGLE_VERTEX_BASE_URL"):
            env(name, apis.base_url)
        hub = stack.enter_context(huggingface.HuggingFace(huggingface.HubConfig(token=KEY)))
        hub.always(huggingface.Plan(end="failed", error=TOLD))
        env("HF_TOKEN", KEY)
        env("HF_ENDPOINT", hub.url)
        env("PENNYREEL_HF_ROUTER_URL", hub.url)
        env("RUNPOD_API_KEY", KEY)
        env("RUNPOD_ENDPOINT_ID", "ep")
        env("PENNYREEL_RUNPOD_GPU", "AMPERE_24")
        env("RUNPOD_ENDPOINT_BASE_URL", stack.enter_context(Scripted(self.runpod)).url)

    def runpod(self, request: Request) -> Reply:
        if request.path.endswith("/run"):
            return Reply(200, {"id": "j1", "status": "IN_QUEUE"})
        if "/status/" in request.path:
            return Reply(200, {"id": "j1", "status": "FAILED", "error": TOLD})
        return Reply(200, {"jobs": {}, "workers": {"idle": 1}})


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack, monkeypatch.setenv)


@pytest.mark.parametrize("backend", ["runpod", "replicate", "gemini", "veo", "huggingface"])
def test_no_record_and_no_log_quotes_a_prompt(
    backend: str,
    world: World,
    cli: Cli,
    ledger: Ledger,
    home: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    freely = ("--max-cost", "9", "--day-limit", "500", "--allow-unknown-price")
    negative = () if backend in NO_NEGATIVE else ("--negative", NEGATIVE)
    ran = cli("generate", PROMPT, *negative, *freely, "--backend", backend)
    assert ran.code == 3, ran.err
    assert "at step 3" in ran.err, "its words are told to the user"
    job = ledger.jobs()[0].job_id
    shown = cli("jobs", "show", job).out
    assert "[prompt]" in shown
    assert "at step 3" in shown
    kept = b"".join(p.read_bytes() for p in home.rglob("ledger*")).decode("utf-8", "replace")
    logs = caplog.text
    for place in (shown, cli("why", job, "--json").out, kept, logs):
        assert [piece for piece in PIECES[: 5 if negative else 3] if piece in place] == []


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("failed on 'a paper boat in the rain', sorry", "failed on '[prompt]', sorry"),
        ("failed on 'A Paper boat in the r…'", "failed on '[prompt]…'"),
        ("in boat in the rain and wind", "in boat in the rain and wind"),
        ("q=a%20paper%20boat%20in%20the%20rain", "q=[prompt]"),
        ("nothing of it", "nothing of it"),
        ("", ""),
    ],
)
def test_what_is_quoted_goes_and_the_rest_stays(text: str, left: str) -> None:
    assert unquoted(text, ["a paper boat in the rain", "ok"]) == left


def test_a_short_prompt_is_one_too() -> None:
    assert unquoted("no 'cat' here, of a CAT", ["cat", ""]) == "no '[prompt]' here, of a [prompt]"
