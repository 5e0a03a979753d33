"""Hooks hear of every job, attempt and cost, and can do no harm."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from client.support import GRAPH
from fakes.waits import eventually
from pennyreel import AsyncClient, Client, JobFailed, LoggingHook, telemetry, watching
from pennyreel.hooks import AttemptEnd, EventFacts, JobEnd, JobStart
from pennyreel.telemetry import OpenTelemetryHook

PROMPT = "a boat with CANARY sails"


class Ears:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def job_started(self, job: JobStart) -> None:
        self.told.append(job)

    def event(self, event: EventFacts) -> None:
        self.told.append(event)

    def attempt_ended(self, attempt: AttemptEnd) -> None:
        self.told.append(attempt)

    def job_ended(self, job: JobEnd) -> None:
        self.told.append(job)

    def only(self, kind: type[Any]) -> list[Any]:
        return [one for one in self.told if isinstance(one, kind)]


def client(*hooks: object, simulated: str = "run_s=0.05") -> Client:
    return Client("simulated", hooks=hooks, simulated=simulated)


def test_a_hook_hears_of_the_job_its_attempt_and_its_end_in_that_order() -> None:
    ears = Ears()
    with client(ears) as one:
        result = one.generate(PROMPT)
    kinds = [type(t) for t in ears.told if not isinstance(t, EventFacts)]
    assert kinds == [JobStart, AttemptEnd, JobEnd]
    start, (attempt,), (end,) = ears.told[0], ears.only(AttemptEnd), ears.only(JobEnd)
    assert start.job_id == attempt.job_id == end.job_id == result.job_id
    assert (attempt.backend, attempt.outcome, attempt.cost_microusd) == ("simulated", "done", 0)
    assert attempt.attempt_id == result.handle.attempt_id
    assert (end.outcome, end.cost_microusd, end.attempts) == ("done", 0, 1)
    assert 0.05 <= attempt.seconds <= end.seconds
    assert [e.name for e in ears.only(EventFacts)][:2] == ["chosen", "submitted"]


def test_what_a_hook_hears_has_no_prompt_path_or_url() -> None:
    ears = Ears()
    with client(ears, simulated="run_s=0.02,fail=1") as one, pytest.raises(JobFailed):
        one.generate(PROMPT)
    told = str([asdict(t) for t in ears.told])
    assert "CANARY" not in told
    assert "/" not in told
    assert ears.only(JobEnd)[0].outcome == ears.only(AttemptEnd)[0].outcome == "execution_failed"


def test_a_workflow_is_heard_of_too_and_what_it_cost() -> None:
    ears = Ears()
    with client(ears) as one:
        one.run(GRAPH)
    (attempt,), (end,) = ears.only(AttemptEnd), ears.only(JobEnd)
    assert (attempt.outcome, attempt.cost_microusd) == ("done", 0)
    assert (end.outcome, end.cost_microusd, end.attempts) == ("done", 0, 1)


def test_a_job_that_is_let_go_and_gone_on_with_is_heard_of_both_times() -> None:
    first, second = Ears(), Ears()
    with client(first, simulated="run_s=0.3") as one:
        job = one.start(PROMPT)
        job.detach()
        job.accepted(20)
    (end,) = first.only(JobEnd)
    assert (end.outcome, end.attempts) == ("detached", 0)
    later = time.time()
    with client(second) as one:
        one.resume(job.id).result(20)
    (start,), (attempt,), (end,) = (second.only(k) for k in (JobStart, AttemptEnd, JobEnd))
    assert start.job_id == end.job_id == job.id
    assert (attempt.outcome, end.outcome) == ("done", "done")
    assert start.at == end.at <= attempt.at < later, "it began in the first program"
    assert end.seconds >= attempt.seconds


def test_a_job_that_is_watched_late_has_its_whole_time(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = watching.Hooks.watch

    def late(hooks: watching.Hooks, job: Any, look: Any) -> None:
        job.result(20)
        watch(hooks, job, look)

    monkeypatch.setattr(watching.Hooks, "watch", late)
    ears = Ears()
    with client(ears, simulated="run_s=0.3") as one:
        one.generate(PROMPT)
    (start,), (end,) = ears.only(JobStart), ears.only(JobEnd)
    assert start.at == end.at
    assert end.seconds >= 0.3


def test_the_async_client_tells_hooks_the_same() -> None:
    ears = Ears()

    async def story() -> None:
        async with AsyncClient("simulated", hooks=[ears], simulated="run_s=0.02") as one:
            await one.generate(PROMPT)

    asyncio.run(story())
    assert [e.outcome for e in ears.only(JobEnd)] == ["done"]


class Broken:
    def job_started(self, job: JobStart) -> None:
        raise RuntimeError(PROMPT)

    def job_ended(self, job: JobEnd) -> None:
        raise SystemExit


def test_a_hook_that_raises_is_logged_and_the_others_still_hear(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ears = Ears()
    with client(Broken(), ears) as one:
        assert one.generate(PROMPT).paths
    assert ears.only(JobEnd)
    assert "Broken.job_started raised RuntimeError" in caplog.text
    assert "CANARY" not in caplog.text


def test_a_hook_that_hangs_holds_up_no_job_and_the_close_only_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watching, "CLOSE_S", 0.2)
    free, ears = threading.Event(), Ears()

    class Hanging:
        def job_started(self, job: JobStart) -> None:
            free.wait(60)

    try:
        with client(Hanging(), ears) as one:
            assert one.generate(PROMPT).paths
            eventually(lambda: bool(ears.only(JobEnd)))
        assert not free.is_set()
    finally:
        free.set()


def test_a_hook_that_is_far_behind_misses_events_and_fills_no_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watching, "MOST_WAITING", 2)
    monkeypatch.setattr(watching, "CLOSE_S", 0.2)
    free = threading.Event()

    class Slow(Ears):
        def job_started(self, job: JobStart) -> None:
            free.wait(60)

    slow = Slow()
    try:
        with client(slow) as one:
            assert one.generate(PROMPT).paths
            eventually(lambda: "misses what comes" in caplog.text)
    finally:
        free.set()


def test_packages_bring_hooks_by_an_entry_point(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[Ears] = []

    def make() -> Ears:
        made.append(Ears())
        return made[-1]

    class Point(EntryPoint):
        def load(self) -> Callable[[], Ears]:
            if self.name == "broken":
                raise ImportError
            return make

    points = [Point(name, "some.place:make", watching.GROUP) for name in ("broken", "good")]
    monkeypatch.setattr(watching, "entry_points", lambda **_: EntryPoints(points))
    with client() as one:
        one.generate(PROMPT)
    assert len(made) == 1
    assert made[0].only(JobEnd)
    assert "hook broken does not load (ImportError)" in caplog.text


def test_the_logging_hook_writes_starts_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pennyreel.jobs")
    with client(LoggingHook()) as one:
        result = one.generate(PROMPT)
    with client(LoggingHook(), simulated="fail=1") as one, pytest.raises(JobFailed):
        one.generate(PROMPT)
    lines = [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "pennyreel.jobs"]
    assert lines[0] == ("INFO", f"job {result.job_id} started on simulated")
    assert [level for level, _ in lines] == ["INFO"] * 4 + ["WARNING"] * 2
    assert "CANARY" not in caplog.text


class Telemetry:
    """OpenTelemetry's own SDK, keeping all in memory."""

    def __init__(self) -> None:
        self.spans = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])

    def hook(self) -> OpenTelemetryHook:
        return OpenTelemetryHook(self.tracers, self.meters)

    def points(self, name: str) -> list[Any]:
        data: Any = self.reader.get_metrics_data()
        metrics = data.resource_metrics[0].scope_metrics[0].metrics if data else []
        return [p for m in metrics if m.name == name for p in m.data.data_points]


def test_opentelemetry_has_a_span_a_job_and_attempt_below_the_callers_own() -> None:
    here = Telemetry()
    tracer = here.tracers.get_tracer("the program")
    with client(here.hook()) as one, tracer.start_as_current_span("page"):
        result = one.generate(PROMPT)
    spans = {span.name: span for span in here.spans.get_finished_spans()}
    job, attempt, page = (spans[n] for n in ("pennyreel.job", "pennyreel.attempt", "page"))
    assert attempt.parent == job.context
    assert job.parent == page.context
    assert job.attributes is not None
    assert job.attributes["pennyreel.job_id"] == result.job_id
    assert job.attributes["pennyreel.outcome"] == "done"
    assert next(e.name for e in job.events) == "submitted"
    assert attempt.end_time - attempt.start_time >= 50e6
    assert job.start_time <= attempt.start_time + 1e9
    assert "CANARY" not in "".join(span.to_json() for span in spans.values())


def test_opentelemetry_counts_jobs_attempts_costs_and_seconds() -> None:
    here = Telemetry()
    with client(here.hook()) as one:
        one.generate(PROMPT)
        one.generate(PROMPT)
    with client(here.hook(), simulated="fail=1") as one, pytest.raises(JobFailed):
        one.generate(PROMPT)
    jobs = {p.attributes["pennyreel.outcome"]: p.value for p in here.points("pennyreel.jobs")}
    assert jobs == {"done": 2, "execution_failed": 1}
    assert sum(p.value for p in here.points("pennyreel.attempts")) == 3
    assert sum(p.count for p in here.points("pennyreel.job.duration")) == 3
    failed = [s for s in here.spans.get_finished_spans() if not s.status.is_ok]
    assert {s.name for s in failed if s.status.description} == {
        "pennyreel.job",
        "pennyreel.attempt",
    }


def test_opentelemetry_adds_up_micro_dollars_of_attempts() -> None:
    here = Telemetry()
    hook = here.hook()
    for cost in (18_000, 500, None):
        hook.attempt_ended(AttemptEnd("j", "a", "replicate", "done", cost, 1.0, 2.0))
    (point,) = here.points("pennyreel.cost")
    assert (point.value, dict(point.attributes)) == (18_500, {"pennyreel.backend": "replicate"})


def test_opentelemetry_is_used_by_itself_only_where_it_is_set_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert telemetry.configured() is False
    here = Telemetry()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: here.tracers)
    assert telemetry.configured() is True
    with client() as one:
        one.generate(PROMPT)
    names = {span.name for span in here.spans.get_finished_spans()}
    assert names == {"pennyreel.job", "pennyreel.attempt"}
