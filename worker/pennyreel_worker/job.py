"""One job, three stages, one deadline: prepare | execute | deliver. Blocking; runs in a thread."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from pennyreel_comfy import graph as graphs
from pennyreel_comfy import templates
from pennyreel_comfy.events import Event, Succeeded
from pennyreel_comfy.models import Ensured, rename_models
from pennyreel_comfy.models import Progress as ModelProgress
from pennyreel_comfy.outputs import OutputFile, collect, locate
from pennyreel_comfy.sessions import within
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import (
    Artifact,
    Code,
    JobFailed,
    JobRequest,
    JobTimeout,
    PennyreelError,
    Result,
    Unavailable,
    error,
)
from pennyreel_contract.version import __version__
from pennyreel_worker import delivery, inputs, results
from pennyreel_worker.claims import claim
from pennyreel_worker.comfy import Comfy
from pennyreel_worker.examination import Examination, check_wanted
from pennyreel_worker.execution import FAILURES, Executed, Execution
from pennyreel_worker.gate import Gate
from pennyreel_worker.gpu import GpuMemory, cost_microusd
from pennyreel_worker.handover import Handover
from pennyreel_worker.log import log, redactor
from pennyreel_worker.pacing import Durations, Pace, kind_of, shape_of
from pennyreel_worker.reporting import DELIVERED, EXECUTED, PREPARED, Listener, Reporter
from pennyreel_worker.settings import Settings
from pennyreel_worker.storage import Store
from pennyreel_worker.whose import on_gpu

NOTHING = "the job made no output: its output nodes gave none"
NOTHING_WANTED = "the job made no output of the nodes and kinds asked for; previews only on request"


class Stage(Enum):
    """Where a job is; what it owns beside its own folders depends on it."""

    PREPARING = "preparing"
    EXECUTING = "executing"
    DELIVERING = "delivering"
    ENDED = "ended"


OWNING = {Stage.EXECUTING, Stage.DELIVERING}
"""Stages in which a job may own files outside its own folders."""


class Jobs(set["Job"]):
    """The jobs in this process. Hold the lock to look at more than one."""

    def __init__(self) -> None:
        """Begin empty."""
        super().__init__()
        self.lock = threading.RLock()
        self.littered = True
        """Whether a graph ran since nobody's files were last removed."""


@dataclass(frozen=True)
class Dialect:
    """What a request in other words than our contract's asks for besides."""

    names: Mapping[str, str]
    """What the graph says for each input's name."""

    partial: Callable[[PennyreelError], str]
    """Of a graph that fails, what it made before is handed over, with this line as a warning."""

    api_key: str | None = field(default=None, repr=False)
    """For ComfyUI's API nodes, before the operator's own."""


@dataclass(eq=False)
class Job:
    """One request on its way through the worker. Each stage is one blocking call."""

    request: JobRequest
    job_id: str
    settings: Settings
    comfy: Comfy
    store: Store | None
    reporter: Reporter
    gate: Gate
    pace: Pace
    durations: Durations
    others: Jobs
    memory: GpuMemory
    cancel: CancelToken = field(default_factory=CancelToken)
    dialect: Dialect | None = None
    api_key: str | None = field(default=None, repr=False)
    timings: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin the deadline now: everything the job does is within it."""
        wanted = self.request.timeout_s or self.settings.default_timeout_s
        self.deadline = Deadline(min(wanted, self.settings.max_timeout_s))
        self._began = time.monotonic()
        self._graph: dict[str, Any] = {}
        self._runs: set[str] | None = None
        self._kind = self._shape = ""
        self._ensured: Ensured | None = None
        self.stage = Stage.PREPARING
        self._examination: Examination | None = None
        self._execution: Execution | None = None
        self._told: Listener | None = None
        self._peak: int | None = None
        self._models = [(m.folder, m.name) for m in self.request.models]
        self._seed = self.request.seed
        self._folder = f"{self.request.attempt_id}/{uuid.uuid4().hex[:8]}"

    def run(self, uploads: Executor) -> Result:
        """Go through all stages; returns the result, or the stored one of this very attempt."""
        self.cancel.check()
        with self.others.lock:  # a sweep is not to take the folders that it makes
            self.others.add(self)
        stored = self._replay()
        if stored is not None:
            return stored
        self._prepare()
        try:
            executed = self._execute()
        except JobFailed as problem:
            return self._deliver_partly(problem, uploads)
        return self._keep(self._deliver(executed, uploads))

    def _replay(self) -> Result | None:
        if self.store is None:
            return None
        result = results.find(
            self.store,
            self.settings.results_prefix,
            self.request,
            deadline=self.deadline,
            cancel=self.cancel,
        )
        if result is not None:  # it may have been stored inline, under a larger limit
            delivery.check_size(result, self.job_id, self.settings)
        return result

    def _prepare(self) -> None:
        """Resolve the graph, fetch the inputs, and give both the job's own folders."""
        began = time.monotonic()
        self.reporter.stage("preparing", 0)
        request, attempt = self.request, self.request.attempt_id
        graph = self._resolve()
        check_wanted(graph, request.outputs.nodes)
        self._kind, self._shape = kind_of(graph), shape_of(graph)
        names = {item.name: item.name for item in request.inputs}
        said = names if self.dialect is None else self.dialect.names
        brought = {m.name for m in request.models if m.url is not None}
        examined = self._examination = Examination(
            self.comfy, self.settings, graph, set(said), self._models, brought, attempt
        )
        with within(self.deadline, self.cancel):
            examined.make()
        self.warnings += examined.warnings
        graph = self._fetch_models(graph)
        if request.seed is not None:
            graph, seeds = graphs.set_seed(graph, request.seed)
            if not seeds:
                self.warnings.append("a seed was given, and the workflow has no seed to set")
        inputs.place(
            request.inputs,
            self.comfy.folders["input"] / attempt,
            settings=self.settings,
            store=self.store,
            deadline=self.deadline,
            cancel=self.cancel,
        )
        graph = graphs.rename_files(graph, {g: f"{attempt}/{n}" for g, n in said.items()})
        # A folder of its own each time: an attempt that failed in delivery and comes again would
        # else be answered from ComfyUI's cache, with files that are gone.
        graph = graphs.prefix_outputs(graph, self._folder)
        self._runs = examined.runs()
        self._graph = graphs.mark_nodes(graph, examined.unprefixed(), self._folder)
        self.timings["prepare"] = time.monotonic() - began

    def _execute(self) -> Executed:
        """Run the graph when its turn has come."""
        # A model that had to be downloaded says nothing of the next job.
        self.pace.prepared(self.job_id, besides_s=self.timings.get("models", 0.0))
        waiting = time.monotonic()
        with self.gate.turn(self.deadline, self.cancel) as turn:
            began = time.monotonic()
            self.timings["queue"] = began - waiting
            self._at(Stage.EXECUTING)
            self.reporter.stage("executing", PREPARED)
            told = self._told = Listener(
                self.reporter,
                self._graph,
                previews=self.request.preview,
                runs=self._runs,
                expected_s=self.durations.expected(self._kind),
                node_s=self.durations.nodes(self._kind, self._shape),
                deliver_s=self.durations.expected(f"deliver {self._kind}") or 0.0,
            )
            self.pace.running(self.job_id, told.remaining_s)
            self._sweep()
            self.others.littered = True
            self._execution = self._permitted(told)
            with on_gpu(self.job_id), self.memory.peak() as peak:
                executed = self._execution.run(turn)
        self._at(Stage.DELIVERING)
        self.pace.executed(self.job_id)
        self._peak = peak.bytes
        if not executed.again:
            self.durations.learn(self._kind, time.monotonic() - began)
            nodes = {timing.node: timing.seconds for timing in told.nodes()}
            for name in (self._kind, self._shape):
                self.durations.learn_nodes(name, nodes)
        self.timings["execute"] = executed.seconds
        self.warnings += executed.warnings
        return executed

    def _permitted(self, told: Listener) -> Execution:
        """Return the graph's execution, when nothing is left that could forbid it."""
        if self._examination and not self._examination.complete:
            self.comfy.ready(self.deadline, self.cancel, kind=self._kind)
            with within(self.deadline, self.cancel):
                self._examination.repeat()
        if self.paid and self.store is not None:
            claim(
                self.store,
                self.settings.results_prefix,
                self.request.attempt_id,
                deadline=self.deadline,
                cancel=self.cancel,
            )
        return Execution(
            self.comfy,
            self._graph,
            self._kind,
            self.deadline,
            self.cancel,
            self.job_id,
            paid=self.paid,
            api_key=self.api_key,
            stall_s=self.settings.stall_s,
            listener=self._listener(told),
        )

    def _deliver(self, executed: Executed, pool: Executor) -> Result:
        """Hand the outputs over and describe them."""
        began = time.monotonic()
        self.reporter.stage("delivering", EXECUTED)
        try:
            way = Handover(
                self.request, self.job_id, self.settings, self.store, self.deadline, self.cancel,
                tell=self._delivered, warn=self.warnings.append,
            )  # fmt: skip
            made = self._gather(executed)
            result = way.of(made, lambda artifacts: self._describe(artifacts, began), pool)
            self.durations.learn(f"deliver {self._kind}", time.monotonic() - began)
        finally:
            self._remove_strays(executed.entry)
        return result

    def _deliver_partly(self, problem: JobFailed, pool: Executor) -> Result:
        """Hand over what a graph made before it failed.

        Raises:
            JobFailed: it made nothing, nobody wants a part, or it cannot be handed over.

        """
        execution, dialect = self._execution, self.dialect
        if dialect is None or execution is None or problem.code not in FAILURES:
            raise problem
        left = execution.left_by_failure()
        if left is None or not (collect(left.entry)[0] or left.run.images):
            raise problem
        self._at(Stage.DELIVERING)
        self.pace.executed(self.job_id)
        self.timings["execute"] = left.seconds
        # A node's own words may quote a key.
        self.warnings.append(redactor.clean(dialect.partial(problem)))
        try:
            return self._deliver(left, pool)
        except (JobFailed, JobTimeout) as another:
            log.warning(
                "what was made cannot be handed over: %s", another, extra={"job": self.job_id}
            )
            raise problem from None

    def _keep(self, result: Result) -> Result:
        """Store the result for repeats."""
        if self.store is not None:
            warning = results.keep(
                self.store,
                self.settings.results_prefix,
                self.request,
                result,
                deadline=self.deadline,
                cancel=self.cancel,
            )
            if warning:
                result = result.model_copy(update={"warnings": (*result.warnings, warning)})
        return result

    @property
    def paid(self) -> bool:
        """Whether the graph has nodes that cost money with each run, as far as is known."""
        return self._examination is not None and self._examination.paid

    @property
    def charged(self) -> bool:
        """Whether paid nodes of it may have run: then no program may send it again by itself."""
        return self.paid and self._execution is not None and self._execution.sent

    def clean(self) -> None:
        """Leave nothing of the job on the worker's disk."""
        self._at(Stage.ENDED)
        if self._ensured is not None:
            self._ensured.release()
        self.comfy.clean(self.request.attempt_id)
        session = self.comfy.living()
        if session is not None and self._execution is not None:
            for prompt_id in self._execution.prompts:
                with contextlib.suppress(Unavailable):
                    # Its entry holds the whole request, the API key included.
                    session.http.forget(prompt_id)
        self._sweep()

    def _sweep(self) -> None:
        """Remove what nobody owns, when no other job's files could be among it."""
        with self.others.lock:
            others = [job for job in self.others if job is not self]
            if not self.others.littered or any(job.stage in OWNING for job in others):
                return
            living = {job for job in self.others if job.stage is not Stage.ENDED}
            self.comfy.sweep({job.request.attempt_id for job in living})
            self.others.littered = False

    def _at(self, stage: Stage) -> None:
        with self.others.lock:  # a sweep of another's is not to take this job's previews
            self.stage = stage

    def _listener(self, tell: Listener) -> Callable[[Event], None]:
        def listen(event: Event) -> None:
            tell(event)
            if isinstance(event, Succeeded):
                self.pace.executed(self.job_id)  # the next may come while this one is delivered

        return listen

    def _resolve(self) -> dict[str, Any]:
        request = self.request
        if request.template is None:
            return graphs.parse(request.workflow, links=False)
        template = templates.load(request.template, self.settings.template_dirs)
        rendered = template.render(dict(request.parameters))
        # By name only: what an image lacks is not downloaded at a GPU's price unless a job says so.
        self._models += [(m.folder, m.name) for m in rendered.models]
        if self._seed is None:
            drawn = (
                rendered.parameters[n] for n, p in template.parameters.items() if p.type == "seed"
            )
            self._seed = next((s for s in drawn if isinstance(s, int)), None)
        return rendered.graph

    def _fetch_models(self, graph: dict[str, Any]) -> dict[str, Any]:
        """Get what the job asks for by URL; returns the graph with the names on the disk."""
        began = time.monotonic()

        def tell(news: ModelProgress) -> None:
            if news.total:
                self.reporter.stage("preparing", PREPARED * news.done / news.total)

        self._ensured = self.comfy.models.jobs.ensure(
            self.request.models, deadline=self.deadline, cancel=self.cancel, progress=tell
        )
        self.warnings += self._ensured.warnings
        if self._ensured.lease is not None:
            self.timings["models"] = time.monotonic() - began
        return rename_models(graph, self._ensured.names)

    def _gather(self, executed: Executed) -> list[delivery.Made]:
        wanted, entry, run = self.request.outputs, executed.entry, executed.run
        files, texts = collect(entry, temp=wanted.temp, nodes=wanted.nodes, kinds=wanted.kinds)
        images = [
            i
            for i in run.images
            if (wanted.nodes is None or i.node in wanted.nodes)
            and (wanted.kinds is None or "image" in wanted.kinds)
        ]
        made = delivery.gather(files, texts, images, self._locate)
        if not made:
            some = entry.get("outputs") or run.images
            self.warnings.append(NOTHING_WANTED if some else NOTHING)
        return made

    def _locate(self, made: OutputFile) -> Path:
        """Return an output's path: a node may name any file, and some are of other jobs."""
        path = locate(made, self.comfy.folders)
        folder = path.relative_to(self.comfy.folders[made.type].resolve()).parts[0]
        with self.others.lock:
            others = {job.request.attempt_id for job in self.others if job is not self}
        if folder in others:
            raise error(Code.OUTPUT_MISSING, f"{made.name} is a file of another job")
        return path

    def _remove_strays(self, entry: dict[str, Any]) -> None:
        """Remove previews, and what nodes wrote outside the job's folder (by a linked prefix)."""
        files = collect(entry, temp=True)[0]
        strays = [f for f in files if f.temp or not f.subfolder.startswith(self._folder)]
        for stray in strays:
            with contextlib.suppress(PennyreelError, OSError):
                self._locate(stray).unlink()

    def _delivered(self, share: float) -> None:
        self.reporter.stage("delivering", EXECUTED + share * (DELIVERED - EXECUTED))

    def _describe(self, artifacts: tuple[Artifact, ...], began: float) -> Result:
        now = time.monotonic()
        self.timings |= {"deliver": now - began, "total": now - self._began}
        gpu = self.comfy.gpu()
        seconds = round(self.timings.get("execute", 0.0), 3)
        used = {"seconds": seconds, "peak_vram_bytes": self._peak}
        return Result(
            contract=self.request.contract,
            attempt_id=self.request.attempt_id,
            artifacts=artifacts,
            timings={k: round(v, 3) for k, v in self.timings.items()},
            nodes=self._told.nodes() if self._told else (),
            gpu=gpu.model_copy(update=used) if gpu else None,
            cost_microusd=cost_microusd(seconds, self.settings.gpu_usd_per_s),
            seed=self._seed,
            warnings=tuple(self.warnings),
            metadata=self.request.metadata,
            worker={"pennyreel": __version__, "worker_id": self.settings.worker_id},
        )
