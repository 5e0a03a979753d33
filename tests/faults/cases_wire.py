"""The connections between the worker and the real ComfyUI, cut by a relay between them."""

from __future__ import annotations

import time

from faults.case import Case
from faults.commands import faulty
from faults.site import Plan, Site

PLAN = Plan(
    "relayed",
    {
        "WEBSOCKET_RECONNECT_ATTEMPTS": "2",
        "WEBSOCKET_RECONNECT_DELAY_S": "3",
        "PENNYREEL_COMFYUI_START_S": "60",
    },
)
SOCKET = "the websocket"
HTTP = "ComfyUI's port"
BY_SOCKET = "SaveImageWebsocket"


def cut_idle(at: Site) -> None:
    at.relay("cut")
    at.result(at.run(faulty("none", 0, save=BY_SOCKET), timeout_s=20))


def cut_in_mid_job(at: Site) -> None:
    job = at.run(faulty("none", 0, seconds=3, save=BY_SOCKET), timeout_s=20)
    at.running()
    at.relay("cut")
    at.result(job)


def deaf_at_the_end(at: Site) -> None:
    """The end's message never comes, and nothing says that the connection is of no use."""
    job = at.run(faulty("none", 0, seconds=2), timeout_s=15)
    at.running()
    at.relay("deaf")
    try:
        at.result(job)
    finally:
        at.relay("hear")
        at.relay("cut")


def barred(at: Site) -> None:
    at.relay("bar")
    at.relay("cut")
    try:
        at.result(at.run(faulty("none", 0, seconds=1), timeout_s=20))
    finally:
        at.relay("unbar")


def images_lost(at: Site) -> None:
    job = at.run(faulty("none", 0, seconds=2, save=BY_SOCKET), timeout_s=60)
    at.running()
    at.relay("bar")
    at.relay("cut")
    try:
        at.until(lambda: at.said("websocket broke"), "the loss is noticed")
    finally:
        at.relay("unbar")
    at.result(job, again=True)


def refused_for_a_while(at: Site) -> None:
    job = at.run(faulty("none", 0, seconds=4), timeout_s=60)
    at.running()
    at.relay("refuse 2.5")
    at.result(job)


def refused_for_good(at: Site) -> None:
    job = at.run(faulty("none", 0, seconds=2), timeout_s=150)
    at.running()
    at.relay("refuse 3600")
    at.result(job, again=True)


def answer_lost(at: Site) -> None:
    at.relay("lose")
    tag = f"lost-{time.monotonic_ns()}"
    at.result(at.run(faulty("none", 0, tag=tag), timeout_s=60))
    assert at.runs(tag) == 1


RIGHT = "the right result, of one run"
CASES = (
    Case("cut before a job", SOCKET, "aborted while idle; the output comes by it", RIGHT, 30,
         "pennyreel_comfy.eventsocket:EventSocket._connect", cut_idle),
    Case("cut in mid-job", SOCKET, "aborted while a node runs; the output comes by it", RIGHT, 30,
         "pennyreel_comfy.eventsocket:EventSocket._connect", cut_in_mid_job),
    Case("silent at the end", SOCKET, "the end's messages swallowed, the connection open", RIGHT,
         20, "pennyreel_comfy.session:Run._sleep", deaf_at_the_end),
    Case("barred", SOCKET, "aborted, and each new one as well", RIGHT, 30,
         "pennyreel_comfy.session:Run._sleep", barred),
    Case("barred as its images come", SOCKET, "aborted, and each new one, until they are lost",
         "the right result, by a second run", 60,
         "pennyreel_worker.execution:Execution._remedy", images_lost),
    Case("refused for a while", HTTP, "socket closed and connections cut, for 2.5 s", RIGHT, 30,
         "pennyreel_comfy.session:Run._wait", refused_for_a_while),
    Case("refused for good", HTTP, "socket closed and connections cut, ComfyUI alive",
         "the right result, by a second run", 160,
         "pennyreel_worker.execution:Execution._remedy", refused_for_good),
    Case("the submit's answer is lost", HTTP, "the connection aborted after POST /prompt",
         RIGHT, 60, "pennyreel_comfy.session:Session._known", answer_lost),
)  # fmt: skip
