"""The hook for OpenTelemetry: a span a job and attempt, counts and costs. Needs its API.

Names: spans `pennyreel.job` and `pennyreel.attempt`; counters `pennyreel.jobs`,
`pennyreel.attempts`, `pennyreel.cost` (micro-dollars); histogram `pennyreel.job.duration`
(seconds).
"""

from __future__ import annotations

from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Span, Status, StatusCode, TracerProvider

from pennyreel.hooks import AttemptEnd, EventFacts, JobEnd, JobStart
from pennyreel_contract.version import __version__

_NAME = "pennyreel"
_IDLE = frozenset(
    {"ProxyTracerProvider", "NoOpTracerProvider", "_ProxyMeterProvider", "NoOpMeterProvider"}
)
"""What the API gives where nobody has set up anything; those of metrics have no public name."""

_WELL = frozenset({"done", "detached"})
_TOLD = frozenset({"submitted", "told", "started", "artifact_saved"})
"""Events that are worth a mark on a job's span; progress is not."""


def configured() -> bool:
    """Whether this program has set up a provider of traces or metrics."""
    providers = (trace.get_tracer_provider(), metrics.get_meter_provider())
    return any(type(provider).__name__ not in _IDLE for provider in providers)


class OpenTelemetryHook:
    """See the module. Used by itself where OpenTelemetry is set up."""

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        """Use the program's providers, unless others are given."""
        self._tracer = trace.get_tracer(_NAME, __version__, tracer_provider)
        meter = metrics.get_meter(_NAME, __version__, meter_provider)
        self._jobs = meter.create_counter("pennyreel.jobs", "{job}", "Jobs that have ended")
        self._attempts = meter.create_counter(
            "pennyreel.attempts", "{attempt}", "Tries on a backend that have ended"
        )
        self._cost = meter.create_counter(
            "pennyreel.cost", "{microusd}", "What attempts cost, in millionths of a dollar"
        )
        self._seconds = meter.create_histogram("pennyreel.job.duration", "s", "A job's whole time")
        self._spans: dict[str, Span] = {}

    def job_started(self, job: JobStart) -> None:
        """Begin a span, below the one that was current where the job was started."""
        self._spans[job.job_id] = self._tracer.start_span(
            "pennyreel.job",
            kind=trace.SpanKind.CLIENT,
            attributes={"pennyreel.job_id": job.job_id},
            start_time=_ns(job.at),
        )

    def event(self, event: EventFacts) -> None:
        """Mark the span."""
        span = self._spans.get(event.job_id)
        if span is not None and event.name in _TOLD:
            told: dict[str, Any] = {"pennyreel.backend": event.backend}
            if event.code:
                told["error.type"] = event.code
            span.add_event(event.name, told, _ns(event.at))

    def attempt_ended(self, attempt: AttemptEnd) -> None:
        """Write its span, count it and its cost."""
        labels = {"pennyreel.backend": attempt.backend, "pennyreel.outcome": attempt.outcome}
        self._attempts.add(1, labels)
        if attempt.cost_microusd:
            self._cost.add(attempt.cost_microusd, {"pennyreel.backend": attempt.backend})
        parent = self._spans.get(attempt.job_id)
        span = self._tracer.start_span(
            "pennyreel.attempt",
            context=None if parent is None else trace.set_span_in_context(parent),
            kind=trace.SpanKind.CLIENT,
            attributes={**labels, "pennyreel.attempt_id": attempt.attempt_id},
            start_time=_ns(attempt.at),
        )
        _end(span, attempt)

    def job_ended(self, job: JobEnd) -> None:
        """End its span, count it and its time."""
        labels = {"pennyreel.backend": job.backend, "pennyreel.outcome": job.outcome}
        self._jobs.add(1, labels)
        self._seconds.record(job.seconds, labels)
        span = self._spans.pop(job.job_id, None)
        if span is not None:
            span.set_attributes({**labels, "pennyreel.attempts": job.attempts})
            _end(span, job)


def _end(span: Span, ended: AttemptEnd | JobEnd) -> None:
    span.set_attribute("pennyreel.cost_microusd", ended.cost_microusd)
    if ended.outcome not in _WELL:
        span.set_attribute("error.type", ended.outcome)
        span.set_status(Status(StatusCode.ERROR, ended.outcome))
    span.end(_ns(ended.at + ended.seconds))


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
