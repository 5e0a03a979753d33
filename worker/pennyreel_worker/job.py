"""One job, three stages, one deadline: prepare | execute | deliver. Blocking; runs in threads."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from pennyreel_comfy import graph as graphs
from pennyreel_comfy import templates
from pennyreel_comfy.outputs import collect
from pennyreel_comfy.session import Run, Session
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Artifact, Code, Gpu, JobRequest, ModelNeed, Result, error
from pennyreel_contract.version import __version__
from pennyreel_worker import delivery, inputs, results
from pennyreel_worker.comfy import Comfy, models_missing
from pennyreel_worker.reporting import EXECUTED, PREPARED, Reporter, listener
from pennyreel_worker.settings import Settings
from pennyreel_worker.storage import Store


@dataclass
class Job:
    """One request on its way through the worker. Each stage is one blocking call."""

    request: JobRequest
    job_id: str
    settings: Settings
    comfy: Comfy
    store: Store | None
    reporter: Reporter
    cancel: CancelToken = field(default_factory=CancelToken)
    names: Mapping[str, str] | None = None
    """What the graph says for each input's name, where it differs (the stock dialect)."""

    api_key: str | None = field(default=None, repr=False)
    timings: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin the deadline now: everything the job does is within it."""
        wanted = self.request.timeout_s or self.settings.default_timeout_s
        self.deadline = Deadline(min(wanted, self.settings.max_timeout_s))
        self._began = time.monotonic()
        self._graph: dict[str, Any] = {}
        self._models: tuple[ModelNeed, ...] = ()

    def replay(self) -> Result | None:
        """Return the stored result of this very attempt, where there is one."""
        if self.store is None:
            return None
        return results.find(self.store, self.settings.results_prefix, self.request)

    def prepare(self) -> None:
        """Resolve the graph, fetch the inputs, and give both the job's own folders."""
        began = time.monotonic()
        self.reporter.stage("preparing", 0)
        request, attempt = self.request, self.request.attempt_id
        graph = self._resolve()
        if request.seed is not None:
            graph, _ = graphs.set_seed(graph, request.seed)
        inputs.place(
            request.inputs,
            self.comfy.folders["input"] / attempt,
            settings=self.settings,
            store=self.store,
            deadline=self.deadline,
            cancel=self.cancel,
        )
        said = self.names or {item.name: item.name for item in request.inputs}
        graph = graphs.rename_files(graph, {g: f"{attempt}/{n}" for g, n in said.items()})
        self._graph = graphs.prefix_outputs(graph, attempt)
        self.timings["prepare"] = time.monotonic() - began

    def execute(self) -> tuple[dict[str, Any], Run]:
        """Run the graph; returns its /history entry and the run."""
        self.reporter.stage("executing", PREPARED)
        session = self.comfy.ready(self.deadline, self.cancel)
        self._check_models(session)
        began = time.monotonic()
        with self.comfy.process.busy():
            run = session.submit(
                self._graph,
                extra_data={"api_key_comfy_org": self.api_key} if self.api_key else None,
                listener=listener(self.reporter, self._graph, previews=self.request.preview),
            )
            entry = run.wait(self.deadline, self.cancel)
        self.timings["execute"] = time.monotonic() - (run.started_at or began)
        self.warnings += run.warnings
        session.http.forget(run.prompt_id)
        return entry, run

    def deliver(self, entry: dict[str, Any], run: Run, pool: Executor) -> Result:
        """Hand the outputs over and describe them."""
        began = time.monotonic()
        self.reporter.stage("delivering", EXECUTED)
        wanted = self.request.outputs
        files, texts = collect(entry, temp=wanted.temp, nodes=wanted.nodes, kinds=wanted.kinds)
        images = [
            i
            for i in run.images
            if (wanted.nodes is None or i.node in wanted.nodes)
            and (wanted.kinds is None or "image" in wanted.kinds)
        ]
        made = delivery.gather(files, texts, images, self.comfy.folders)
        artifacts = self._hand_over(made, pool)
        self.timings["deliver"] = time.monotonic() - began
        self.timings["total"] = time.monotonic() - self._began
        result = self._describe(artifacts)
        limit = delivery.limit_of(self.job_id, self.settings)
        if delivery.measure(result.wire()) > limit:
            raise delivery.too_large(made, limit)
        if self.store is not None:
            warning = results.keep(self.store, self.settings.results_prefix, self.request, result)
            if warning:
                result = result.model_copy(update={"warnings": (*result.warnings, warning)})
        return result

    def clean(self) -> None:
        """Leave nothing of the job on the worker's disk."""
        self.comfy.clean(self.request.attempt_id)

    def _resolve(self) -> dict[str, Any]:
        request = self.request
        self._models = request.models
        if request.template is None:
            return graphs.parse(request.workflow)
        template = templates.load(request.template, self.settings.template_dirs)
        rendered = template.render(dict(request.parameters))
        return rendered.graph

    def _check_models(self, session: Session) -> None:
        missing = models_missing(session.http, [(m.folder, m.name) for m in self._models])
        if missing:
            raise error(
                Code.MISSING_MODEL,
                "this worker lacks " + ", ".join(f"{f}/{n}" for f, n in missing),
                detail={"models": [f"{f}/{n}" for f, n in missing]},
            )

    def _hand_over(self, made: list[delivery.Made], pool: Executor) -> tuple[Artifact, ...]:
        how = self.request.outputs.delivery
        if how == "s3" and self.store is None:
            raise error(
                Code.NOT_CONFIGURED,
                "delivery by S3 was asked for, and this worker has no bucket",
                hint="Set BUCKET_* on the endpoint, or ask for inline delivery.",
            )
        limit = delivery.limit_of(self.job_id, self.settings)
        if self.store is None or how == "inline":
            artifacts = delivery.inline(made, limit=limit)
            if artifacts is not None:
                return artifacts
            if self.store is None:
                raise delivery.too_large(made, limit)
            self.warnings.append("too large to return inline: delivered by S3")
        return delivery.to_store(
            made,
            self.store,
            request=self.request,
            job_id=self.job_id,
            template=self.settings.key_template,
            pool=pool,
            cancel=self.cancel,
        )

    def _describe(self, artifacts: tuple[Artifact, ...]) -> Result:
        gpu = self.comfy.gpu()
        seconds = round(self.timings.get("execute", 0.0), 3)
        return Result(
            contract=self.request.contract,
            attempt_id=self.request.attempt_id,
            artifacts=artifacts,
            timings={k: round(v, 3) for k, v in self.timings.items()},
            gpu=Gpu(**{**gpu.model_dump(), "seconds": seconds}) if gpu else None,
            seed=self.request.seed,
            warnings=tuple(self.warnings),
            metadata=self.request.metadata,
            worker={"pennyreel": __version__, "worker_id": self.settings.worker_id},
        )
