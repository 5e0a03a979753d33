"""One job, three stages, one deadline: prepare | execute | deliver. Blocking; runs in threads."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from pennyreel_comfy import graph as graphs
from pennyreel_comfy import templates
from pennyreel_comfy.outputs import collect, locate
from pennyreel_comfy.session import Run, Session
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import (
    Artifact,
    Code,
    JobCancelled,
    JobRequest,
    JobTimeout,
    OutcomeUnknown,
    PennyreelError,
    Result,
    Unavailable,
    error,
)
from pennyreel_contract.version import __version__
from pennyreel_worker import delivery, inputs, results
from pennyreel_worker.comfy import Comfy, models_missing
from pennyreel_worker.reporting import EXECUTED, PREPARED, Reporter, listener
from pennyreel_worker.settings import Settings
from pennyreel_worker.storage import Store

NOTHING = "the job made no output: its output nodes gave none"
NOTHING_WANTED = "the job made no output of the nodes and kinds asked for; previews only on request"


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
        self._models = [(m.folder, m.name) for m in self.request.models]
        self._seed = self.request.seed
        self._folder = f"{self.request.attempt_id}/{uuid.uuid4().hex[:8]}"

    def replay(self) -> Result | None:
        """Return the stored result of this very attempt, where there is one."""
        if self.store is None:
            return None
        result = results.find(self.store, self.settings.results_prefix, self.request)
        if result is not None:  # it may have been stored inline, under a larger limit
            delivery.check_size(result, self.job_id, self.settings)
        return result

    def prepare(self) -> None:
        """Resolve the graph, fetch the inputs, and give both the job's own folders."""
        began = time.monotonic()
        self.reporter.stage("preparing", 0)
        request, attempt = self.request, self.request.attempt_id
        graph = self._resolve()
        self._check_nodes(graph)
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
        said = self.names or {item.name: item.name for item in request.inputs}
        graph = graphs.rename_files(graph, {g: f"{attempt}/{n}" for g, n in said.items()})
        # A folder of its own each time: an attempt that failed in delivery and comes again would
        # else be answered from ComfyUI's cache, with files that are gone.
        self._graph = graphs.prefix_outputs(graph, self._folder)
        self.timings["prepare"] = time.monotonic() - began

    def execute(self) -> tuple[dict[str, Any], Run]:
        """Run the graph; returns its /history entry and the run."""
        self.reporter.stage("executing", PREPARED)
        session = self.comfy.ready(self.deadline, self.cancel)
        self._check_models(session)
        began = time.monotonic()
        with self.comfy.busy():
            try:
                run = session.submit(
                    self._graph,
                    extra_data={"api_key_comfy_org": self.api_key} if self.api_key else None,
                    listener=listener(self.reporter, self._graph, previews=self.request.preview),
                )
            except (OutcomeUnknown, Unavailable) as problem:
                raise self._stopped_answering(str(problem)) from None
            entry = self._wait(session, run)
        self.timings["execute"] = time.monotonic() - (run.started_at or began)
        self.warnings += run.warnings
        return entry, run

    def deliver(self, entry: dict[str, Any], run: Run, pool: Executor) -> Result:
        """Hand the outputs over and describe them."""
        began = time.monotonic()
        self.reporter.stage("delivering", EXECUTED)
        try:
            result = self._hand_over(self._gather(entry, run), began, pool)
        finally:
            self._remove_strays(entry)
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
        if request.template is None:
            return graphs.parse(request.workflow)
        template = templates.load(request.template, self.settings.template_dirs)
        rendered = template.render(dict(request.parameters))
        self._models += [(m.folder, m.name) for m in rendered.models]
        if self._seed is None:
            drawn = (
                rendered.parameters[n] for n, p in template.parameters.items() if p.type == "seed"
            )
            self._seed = next((s for s in drawn if isinstance(s, int)), None)
        return rendered.graph

    def _check_nodes(self, graph: Mapping[str, Any]) -> None:
        unknown = [n for n in self.request.outputs.nodes or () if n not in graph]
        if unknown:
            raise error(
                Code.BAD_REQUEST,
                f"outputs.nodes: the workflow has no node {', '.join(unknown)}",
                detail={"nodes": unknown},
            )

    def _wait(self, session: Session, run: Run) -> dict[str, Any]:
        """Wait for the run; whatever its end, ComfyUI keeps nothing of it and works on nothing."""
        try:
            return run.wait(self.deadline, self.cancel)
        except (JobCancelled, JobTimeout):
            if _still_there(session, run):
                self.comfy.condemn(f"did not stop work on {run.prompt_id}")
            raise
        except Unavailable as problem:
            raise self._stopped_answering(str(problem)) from None
        finally:
            if not self.comfy.stuck:
                with contextlib.suppress(Unavailable):
                    # Its entry holds the whole request, the API key included.
                    session.http.forget(run.prompt_id)

    def _stopped_answering(self, why: str) -> Exception:
        self.comfy.condemn("stopped answering")
        return error(Code.COMFY_CRASHED, f"ComfyUI stopped answering: {why}")

    def _check_models(self, session: Session) -> None:
        missing = models_missing(session.http, self._models)
        if missing:
            raise error(
                Code.MISSING_MODEL,
                "this worker lacks " + ", ".join(f"{f}/{n}" for f, n in missing),
                detail={"models": [f"{f}/{n}" for f, n in missing]},
            )

    def _gather(self, entry: dict[str, Any], run: Run) -> list[delivery.Made]:
        wanted = self.request.outputs
        files, texts = collect(entry, temp=wanted.temp, nodes=wanted.nodes, kinds=wanted.kinds)
        images = [
            i
            for i in run.images
            if (wanted.nodes is None or i.node in wanted.nodes)
            and (wanted.kinds is None or "image" in wanted.kinds)
        ]
        made = delivery.gather(files, texts, images, self.comfy.folders)
        if not made:
            some = entry.get("outputs") or run.images
            self.warnings.append(NOTHING_WANTED if some else NOTHING)
        return made

    def _remove_strays(self, entry: dict[str, Any]) -> None:
        """Remove what nodes wrote outside the job's folder: their prefix came over a link.

        ComfyUI's cache would still name these files to the next job, so that is emptied, too.
        Previews stay: they are ComfyUI's own to clear, and nearly every workflow has some.
        """
        strays = [f for f in collect(entry)[0] if not f.subfolder.startswith(self._folder)]
        if not strays:
            return
        for stray in strays:
            with contextlib.suppress(PennyreelError, OSError):
                locate(stray, self.comfy.folders).unlink()
        with contextlib.suppress(PennyreelError):
            self.comfy.ready(self.deadline, self.cancel).http.free(unload_models=False)

    def _hand_over(self, made: list[delivery.Made], began: float, pool: Executor) -> Result:
        """Deliver as asked, or by S3 where it is too large to be returned inline."""
        how, limit = self.request.outputs.delivery, delivery.limit_of(self.job_id, self.settings)
        if how == "s3" and self.store is None:
            raise error(
                Code.NOT_CONFIGURED,
                "delivery by S3 was asked for, and this worker has no bucket",
                hint="Set BUCKET_* on the endpoint, or ask for inline delivery.",
            )
        if self.store is None or how == "inline":
            artifacts = delivery.inline(made, limit=limit)
            result = None if artifacts is None else self._describe(artifacts, began)
            if result is not None and delivery.measure(result.wire()) <= limit:
                return result
            if self.store is None:
                raise delivery.too_large(made, limit)
            self.warnings.append("too large to return inline: delivered by S3")
        result = self._describe(self._to_store(made, self.store, pool), began)
        if delivery.measure(result.wire()) > limit:  # thousands of files, each with a long URL
            raise delivery.too_large(made, limit)
        return result

    def _to_store(
        self, made: list[delivery.Made], store: Store, pool: Executor
    ) -> tuple[Artifact, ...]:
        return delivery.to_store(
            made,
            store,
            request=self.request,
            job_id=self.job_id,
            template=self.settings.key_template,
            pool=pool,
            deadline=self.deadline,
            cancel=self.cancel,
        )

    def _describe(self, artifacts: tuple[Artifact, ...], began: float) -> Result:
        now = time.monotonic()
        self.timings |= {"deliver": now - began, "total": now - self._began}
        gpu = self.comfy.gpu()
        seconds = round(self.timings.get("execute", 0.0), 3)
        return Result(
            contract=self.request.contract,
            attempt_id=self.request.attempt_id,
            artifacts=artifacts,
            timings={k: round(v, 3) for k, v in self.timings.items()},
            gpu=gpu.model_copy(update={"seconds": seconds}) if gpu else None,
            seed=self._seed,
            warnings=tuple(self.warnings),
            metadata=self.request.metadata,
            worker={"pennyreel": __version__, "worker_id": self.settings.worker_id},
        )


def _still_there(session: Session, run: Run) -> bool:
    try:
        return run.prompt_id in session.http.queue()
    except Unavailable:
        return True
