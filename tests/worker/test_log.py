"""The log: lines that a person or a machine reads, and no secret in any of them."""

from __future__ import annotations

import base64
import io
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pennyreel_worker import log as logs
from pennyreel_worker.log import (
    HIDDEN,
    Redactor,
    TextFormat,
    about,
    comfy_line,
    log,
    redactor,
    secrets_of,
)
from pennyreel_worker.whose import JobPool, of_job, on_gpu
from worker.support import Bench, node, request, settings_of

CANARIES = [
    "canary-3f9a1c77",
    'wJalr/XUtn+FEMI"K7MDENG\\bPxRfi',
    "pass word&key=1%41",
    "schlüssel-☃-𝄞",
    "hunter2\n",
]


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., io.StringIO]]:
    """`heard("json")` sets the log up; what it writes can be read from what that returns."""
    loggers = [logging.getLogger(), logging.getLogger("pennyreel_worker")]
    former = [(one, one.handlers[:], one.level, one.propagate) for one in loggers]

    def set_up(log_format: str = "text") -> io.StringIO:
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        logs.set_up(log_format=log_format, worker_id="pod-1")
        return stream

    yield set_up
    for one, handlers, level, propagate in former:
        one.handlers[:] = handlers
        one.setLevel(level)
        one.propagate = propagate
    logs._json_worker = None


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def spellings(secret: str) -> dict[str, str]:
    """How a secret gets into a line of text."""
    in_json = json.dumps({"key": secret})
    return {
        "plain": secret,
        "json": in_json,
        "json, not ascii": json.dumps({"key": secret}, ensure_ascii=False),
        "json in json": json.dumps({"body": in_json}),
        "json with every letter escaped": "".join(
            f"\\u{unit:04X}" for unit in memoryview(secret.encode("utf-16-le")).cast("H").tolist()
        ),
        "json with its slashes escaped": in_json.replace("/", "\\/"),
        "url": quote(secret, safe=""),
        "url, slashes kept": quote(secret),
        "url in lower case": quote(secret, safe="").replace("%2F", "%2f"),
        "url twice": quote(quote(secret, safe=""), safe=""),
        "form": quote_plus(secret),
        "repr": repr({"key": secret}),
        "bytes": repr(secret.encode()),
    }


@pytest.mark.parametrize("secret", CANARIES)
@pytest.mark.parametrize("way", list(spellings("x")))
def test_a_secret_is_hidden_however_it_is_spelled(secret: str, way: str) -> None:
    hidden = Redactor()
    hidden.add([secret])
    text = spellings(secret)[way]
    cleaned = hidden.clean(f"before {text} after")
    assert HIDDEN in cleaned
    assert secret.strip() not in cleaned
    assert text not in cleaned
    assert cleaned.startswith("before ")
    assert cleaned.endswith(" after")


@given(st.text(min_size=4, max_size=30).filter(lambda s: len(s.strip()) >= 4), st.text())
@example("****", "x")
def test_no_value_survives_in_json(secret: str, around: str) -> None:
    hidden = Redactor()
    hidden.add([secret])
    cleaned = hidden.clean(json.dumps(f"{around}\n{secret}\n"))
    if set(secret) - set(HIDDEN):
        assert json.dumps(secret)[1:-1] not in cleaned


def test_a_key_of_several_lines_is_hidden_line_by_line() -> None:
    hidden = Redactor()
    hidden.add(["-----BEGIN KEY-----\nMIIEvQIBADAN\nBgkqhkiG9w0B\n-----END KEY-----\n"])
    assert hidden.clean("log: MIIEvQIBADAN") == f"log: {HIDDEN}"


def test_a_longer_secret_is_hidden_before_a_shorter_one_within_it() -> None:
    hidden = Redactor()
    hidden.add(["abcd", "abcd-efgh"])
    assert hidden.clean("x abcd-efgh y") == f"x {HIDDEN} y"


def test_a_secret_of_two_jobs_is_hidden_until_both_are_done() -> None:
    hidden = Redactor()
    with hidden.hiding(["canary-1"]):
        with hidden.hiding(["canary-1", None, "", "abc"]):
            assert hidden.clean("canary-1 abc") == f"{HIDDEN} abc"
        assert hidden.clean("canary-1") == HIDDEN
    assert hidden.clean("canary-1") == "canary-1"


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("GET https://b.example/a?X-Amz-Signature=0f&x=1 now", "GET https://b.example/a?*** now"),
        ("s3 at http://user:pw@h:9/b", "s3 at http://***@h:9/b"),
        ("to '/b?X-Amz-Signature=0f&X-Amz-Date=2'", "to '/b?X-Amz-Signature=***&X-Amz-Date=***'"),
        ("is it? yes, at me@example.org", "is it? yes, at me@example.org"),
        ("http://127.0.0.1:8188/prompt", "http://127.0.0.1:8188/prompt"),
    ],
)  # fmt: skip
def test_urls_lose_their_queries_and_passwords(text: str, cleaned: str) -> None:
    assert Redactor().clean(text) == cleaned


def test_the_operators_secrets_are_the_settings_secrets() -> None:
    settings = settings_of(
        BUCKET_ENDPOINT_URL="https://s3.example.org/b",
        BUCKET_ACCESS_KEY_ID="AKIA",
        BUCKET_SECRET_ACCESS_KEY="canary-s3",
        COMFY_ORG_API_KEY="canary-comfy",
        HF_TOKEN="canary-hf",
        CIVITAI_API_KEY="canary-civitai",
    )
    expected = {"canary-s3", "canary-comfy", "canary-hf", "canary-civitai"}
    assert set(secrets_of(settings)) == expected
    assert not any(secret in repr(settings) for secret in expected)


def test_a_json_line_has_the_ids_the_time_and_what_more_there_is(
    heard: Callable[..., io.StringIO],
) -> None:
    stream = heard("json")
    with about("job-1", "attempt-1"):
        log.info("took %s s", 3, extra={"job": "job-1", "seconds": 3.0})
    log.warning("none", extra={"job": "job-1"})
    first, second = lines(stream)
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "info",
        "message": "took 3 s",
        "worker": "pod-1",
        "job": "job-1",
        "requestId": "job-1",
        "attempt": "attempt-1",
        "seconds": 3.0,
    }
    assert "attempt" not in second


def test_a_line_is_of_the_job_in_whose_context_it_is_written(
    heard: Callable[..., io.StringIO],
) -> None:
    stream = heard("json")
    library = logging.getLogger("pennyreel_worker.results")
    with JobPool(2) as pool:
        with of_job("job-1"):
            pool.submit(library.warning, "of %s", 1).result()
            list(pool.map(library.warning, ["mapped"]))
        with of_job("job-2"):
            pool.submit(library.warning, "of 2").result()
            log.info("says so itself", extra={"job": "job-3"})
        pool.submit(library.warning, "of none").result()
    found = [line.get("job") for line in lines(stream)]
    assert found == ["job-1", "job-1", "job-2", "job-3", None]


def test_all_that_is_logged_of_a_job_names_it_whoever_logs_it(
    heard: Callable[..., io.StringIO], bench: Bench
) -> None:
    stream = heard("json")
    bench.run(request({"1": node("FakeCrash")}), "job-c")
    bench.worker.settle()
    ours = [line for line in lines(stream) if "source" not in line]
    assert any("starting it" in line["message"] for line in ours)  # by who knows of no job
    assert any(line.get("event") == "ended" for line in ours)
    assert {line.get("job") for line in ours} == {"job-c"}


def test_comfyuis_lines_are_of_the_job_on_the_gpu(heard: Callable[..., io.StringIO]) -> None:
    stream = heard("json")
    comfy_line("Starting server")
    with about("job-1", "attempt-1"), on_gpu("job-1"):
        comfy_line("got prompt")
        comfy_line("")
        with on_gpu("job-2"):  # its turn came, and the first has still to read how it ended
            comfy_line("Prompt executed")
    comfy_line("idle")
    found = [(line.get("job"), line.get("attempt")) for line in lines(stream)]
    assert found == [(None, None), *[("job-1", "attempt-1")] * 2, (None, None)]


PRINTS = """
import json, logging, sys, threading, warnings
from pennyreel_worker.log import comfy_line, log, redactor, set_up
from pennyreel_worker.printed import adopt_prints
from pennyreel_worker.whose import of_job

set_up(log_format="json", worker_id="pod-1")
adopt_prints()
redactor.add(["canary-1"])
print("--- Starting Serverless Worker |  Version 1.12.0 ---")
for told in (
    {"requestId": "job-1", "message": "Started. canary-1", "level": "INFO"},
    {"requestId": None, "message": "odd", "level": "ERROR"},
    {"requestId": "job-2", "message": "fine", "level": "DEBUG"},
    {"requestId": "no message"},
):
    print(json.dumps(told), flush=True)
print("WARN   | job-4 | local")
print("INFO   | Starting API server.")
with of_job("job-3"):
    print("a part", end="")
    print(" and the rest", flush=True)
    print("to the other stream", file=sys.stderr)
    warnings.warn("deprecated")
comfy_line("of comfyui")
set_up(log_format="json", worker_id="pod-1")
log.info("once more")
logging.getLogger("uvicorn").addHandler(logging.StreamHandler(sys.stderr))
logging.getLogger("uvicorn").error("with its own handler")
threads = [
    threading.Thread(target=lambda n=n: [print("thread", n, i) for i in range(50)]) for n in "abcd"
]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


BROKEN = """
import io, logging, sys
from pennyreel_worker.log import set_up
from pennyreel_worker.printed import adopt_prints

class Full(io.StringIO):
    refuse = True
    def write(self, text):
        if self.refuse and text.startswith("{"):
            raise OSError("no space left")
        return super().write(text)

sys.stderr = full = Full()
set_up(log_format="json")
adopt_prints()
print("lost")
full.refuse = False
print("and on")
sys.__stdout__.write(full.getvalue())
"""


def test_a_log_that_cannot_be_written_to_ends_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BROKEN], capture_output=True, text=True, timeout=60, check=True
    )
    assert "no space left" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1])["message"] == "and on"


def test_what_anybody_prints_is_an_object_a_line_and_holds_no_secret() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRINTS], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == ""
    assert "canary-1" not in done.stderr
    told = [json.loads(line) for line in done.stderr.splitlines()]
    threads = [line["message"] for line in told if line["message"].startswith("thread ")]
    assert sorted(threads) == sorted(f"thread {n} {i}" for n in "abcd" for i in range(50))
    found = [
        (
            one["message"].split(": ")[-1].split("\n")[0],
            one.get("source"),
            one["level"],
            one.get("job"),
        )
        for one in told[: -len(threads)]
    ]
    assert found == [
        ("--- Starting Serverless Worker |  Version 1.12.0 ---", "print", "info", None),
        ("Started. ***", "runpod", "info", "job-1"),
        ("odd", "runpod", "error", None),
        ("fine", "runpod", "debug", "job-2"),
        ('"no message"}', "print", "info", None),
        ("local", "runpod", "warning", "job-4"),
        ("Starting API server.", "runpod", "info", None),
        ("a part and the rest", "print", "info", "job-3"),
        ("to the other stream", "print", "info", "job-3"),
        ("deprecated", None, "warning", "job-3"),
        ("of comfyui", "comfyui", "info", None),
        ("once more", None, "info", None),
        ("with its own handler", "print", "info", None),
        ("with its own handler", None, "error", None),
    ]


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("secret", CANARIES)
def test_no_secret_is_in_any_line(
    heard: Callable[..., io.StringIO], log_format: str, secret: str
) -> None:
    stream = heard(log_format)
    with about("job-1", "attempt-1", [secret]):
        log.info("key %s", secret, extra={"job": "job-1", "request": {"keys": [secret]}})
        try:
            raise ValueError(f"refused: {json.dumps(secret)}")
        except ValueError as problem:
            logs.to_error(problem, "job-1")
        comfy_line(f"api_key_comfy_org={secret} {quote(secret)}")
        logging.getLogger("urllib3.connectionpool").warning("Retrying: %s", f"/b?key={secret}")
    written = stream.getvalue()
    assert written.count(HIDDEN) >= 5
    for spelled in spellings(secret.strip()).values():
        assert spelled not in written
    if log_format == "json":
        assert all(isinstance(line, dict) for line in lines(stream))
        assert "Traceback" in lines(stream)[1]["exception"]


def test_text_is_one_line_with_the_job_and_comfyui_is_told_apart(
    heard: Callable[..., io.StringIO],
) -> None:
    stream = heard()
    log.info("done", extra={"job": "job-1"})
    comfy_line("Starting server")
    assert stream.getvalue() == "pennyreel | info [job-1] done\ncomfyui | Starting server\n"


def test_lines_of_comfyui_are_json_too(heard: Callable[..., io.StringIO]) -> None:
    stream = heard("json")
    comfy_line('Starting "server"')
    (line,) = lines(stream)
    assert (line["message"], line["source"]) == ('Starting "server"', "comfyui")


def test_a_value_that_json_has_not_is_written_as_text(heard: Callable[..., io.StringIO]) -> None:
    stream = heard("json")
    with redactor.hiding(["canary-9"]):
        log.info("odd", extra={"odd": ValueError("canary-9"), "many": ({1, 2}, b"x")})
    (line,) = lines(stream)
    assert line["odd"] == HIDDEN


def test_what_a_thread_does_not_catch_is_a_line_without_secrets(
    heard: Callable[..., io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = heard("json")
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    logs.catch_all()

    def fail() -> None:
        raise RuntimeError("canary-7")

    with redactor.hiding(["canary-7"]):
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    (line,) = lines(stream)
    assert (line["level"], line["message"]) == ("critical", "uncaught RuntimeError")
    assert "canary-7" not in stream.getvalue()


def test_hiding_costs_little(heard: Callable[..., io.StringIO]) -> None:
    """A chatty ComfyUI writes thousands of lines: they may not cost its job seconds."""
    secrets = [base64.b64encode(bytes([n] * 30)).decode() for n in range(8)]
    line = "100%|##########| 20/20 [00:05<00:00,  3.88it/s] " * 4
    with redactor.hiding(secrets):
        began = time.process_time()
        for _ in range(1000):
            redactor.clean(line)
        assert time.process_time() - began < 2.0


@pytest.mark.parametrize(
    "line", ["\\" * 200_000, "?" + "a://" * 50_000, "@?" + "a.b+" * 50_000, "%25" * 60_000]
)
def test_no_line_of_a_strangers_node_takes_seconds(line: str) -> None:
    hidden = Redactor()
    hidden.add(["canary-1/x", 'y"canary-2'])
    began = time.process_time()
    hidden.clean(line)
    assert time.process_time() - began < 5.0


def test_a_message_of_several_lines_does_not_write_lines_of_its_own() -> None:
    record = logging.LogRecord(
        "n", logging.INFO, "", 0, "%s", ("a\npennyreel | error b\x1b[2J",), None
    )
    assert TextFormat().format(record) == "pennyreel | info a\\npennyreel | error b\\x1b[2J"
