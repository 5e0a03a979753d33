"""Looks at a job's graph before it costs GPU time: may it run, can it run, what will it cost."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from pennyreel_comfy.graph import upstream
from pennyreel_comfy.preflight import (
    Finding,
    NodeCatalogue,
    check,
    paid_nodes,
    refusal,
    refused_nodes,
    sentences,
)
from pennyreel_contract import Code, Unavailable, error
from pennyreel_worker.comfy import Comfy, models_missing
from pennyreel_worker.settings import Settings


@dataclass
class Examination:
    """One graph under examination."""

    comfy: Comfy
    settings: Settings
    graph: dict[str, Any]
    files: AbstractSet[str]
    """What the graph calls the input files that the job brings."""

    models: Sequence[tuple[str, str]]
    """(folder, name) of models that it says it needs."""

    arriving: AbstractSet[str]
    """Names of models that the job brings."""

    attempt_id: str
    """The name of its own folders."""

    paid: bool = False
    """Whether it has nodes that cost money with each run; so it is where nothing is known."""

    warnings: list[str] = field(default_factory=list)
    complete: bool = False

    def make(self) -> None:
        """Refuse what ComfyUI would refuse, and what strangers may not do.

        Where ComfyUI is down nothing is known of its nodes: it will check the graph by itself, and
        `complete` stays False until `repeat`.

        Raises:
            BadRequest: `node_refused`, `unknown_node`, `missing_model`, `bad_workflow` …

        """
        known = self.comfy.catalogue()
        self._apply_policy(known)
        self._check_models()
        if known is None:
            return
        findings = self._findings(known)
        if any(f.code is Code.MISSING_MODEL for f in findings):
            # It may have come since: to the network volume, or with another job.
            findings = self._findings(self.comfy.catalogue(renew=True) or known)
        if (problem := refusal(findings)) is not None:
            raise problem
        self.warnings += sentences(findings)

    def repeat(self) -> None:
        """Look again at what strangers may not do, with a ComfyUI that was down the first time.

        Raises:
            BadRequest: `node_refused`.
            JobFailed: `comfy_crashed`: nothing is known of its nodes even now, so nothing runs.

        """
        if not self.complete:
            self._apply_policy(self.comfy.catalogue())
        if not self.complete:
            raise error(Code.COMFY_CRASHED, "ComfyUI does not tell which nodes it has")

    def unprefixed(self) -> list[str]:
        """Return the output nodes that a cached result would name lost files of, such as previews.

        Their files were removed with the job that made them. The prefix makes the others new.
        """
        return [
            key
            for key in self._outputs()
            if not isinstance(self.graph[key]["inputs"].get("filename_prefix"), str)
        ]

    def runs(self) -> set[str] | None:
        """Return the nodes that will run: ComfyUI passes over what no output needs.

        None where its output nodes are not known.
        """
        return upstream(self.graph, self._outputs()) or None

    def _outputs(self) -> list[str]:
        catalogue = self.comfy.catalogue() or NodeCatalogue({})
        return [
            key
            for key, node in self.graph.items()
            if (spec := catalogue.get(node["class_type"])) is not None and spec.output_node
        ]

    def _apply_policy(self, known: NodeCatalogue | None) -> None:
        catalogue = known or NodeCatalogue({})
        others = self.comfy.input_folders() - {self.attempt_id}
        brought = self.comfy.models.jobs.files() - self.arriving
        refused = refused_nodes(
            self.graph, catalogue, self.settings.allow_nodes, foreign=others, models=brought
        )
        if (problem := refusal(refused)) is not None:
            raise problem
        self.complete = known is not None
        self.paid = known is None or bool(paid_nodes(self.graph, known))

    def _findings(self, catalogue: NodeCatalogue) -> list[Finding]:
        return check(self.graph, catalogue, files=self.files, arriving=self.arriving)

    def _check_models(self) -> None:
        session = self.comfy.living() if self.models else None
        try:
            missing = models_missing(session.http, self.models) if session else []
        except Unavailable:
            return  # it has died: it will be started anew, and refuse the graph by itself
        missing = [m for m in missing if m[1] not in self.arriving]
        if missing:
            raise error(
                Code.MISSING_MODEL,
                "this worker lacks " + ", ".join(f"{f}/{n}" for f, n in missing),
                detail={"models": [f"{f}/{n}" for f, n in missing]},
            )


def check_wanted(graph: Mapping[str, Any], nodes: Collection[str] | None) -> None:
    """Refuse a request that wants outputs of nodes that its graph does not have."""
    unknown = [n for n in nodes or () if n not in graph]
    if unknown:
        raise error(
            Code.BAD_REQUEST,
            f"outputs.nodes: the workflow has no node {', '.join(unknown)}",
            detail={"nodes": unknown},
        )
