"""The warm-up: one prompt before the first job, so that no job pays for what is only done once.

CUDA's context, kernels compiled or chosen at first use, and the models that stay loaded. It is the
operator's own: it may fail, and then the worker takes jobs all the same.
"""

from __future__ import annotations

import contextlib
import shutil
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pennyreel_comfy import graph as graphs
from pennyreel_comfy import templates
from pennyreel_comfy.outputs import collect, locate
from pennyreel_comfy.session import Run, Session
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Code, JobCancelled, PennyreelError, error
from pennyreel_worker.log import log
from pennyreel_worker.settings import Settings

WARMUP_S = 120.0
"""It may take this long at most, and no longer than ComfyUI may take to start."""


def warm_up(
    session: Session,
    settings: Settings,
    folders: Mapping[str, Path],
    cancel: CancelToken | None = None,
) -> float | None:
    """Run what PENNYREEL_WARMUP names, and remove what it made.

    Args:
        session: with a server that is ready and has no job.
        settings: `warmup` is the name of a template, or the path of a graph in API format.
        folders: ComfyUI's, by type (output, temp, input).
        cancel: the worker is told to stop.

    Returns:
        The seconds that it took; None where there is none to run, or it failed, which is logged.

    Raises:
        JobCancelled: by `cancel`.

    """
    if settings.warmup is None:
        return None
    began = time.monotonic()
    try:
        graph = load(settings.warmup, settings.template_dirs)
        _run(session, graph, folders, Deadline(min(settings.start_s, WARMUP_S)), cancel)
    except PennyreelError as problem:
        if isinstance(problem, JobCancelled) and cancel is not None and cancel.cancelled:
            raise
        log.warning(
            "the warm-up %r failed: %s: %s. %s Jobs are taken without it.",
            settings.warmup,
            problem.code,
            problem,
            problem.hint,
            extra={"event": "warmup_failed", "code": problem.code},
        )
        return None
    seconds = time.monotonic() - began
    log.info(
        "the warm-up %r took %.1f s",
        settings.warmup,
        seconds,
        extra={"event": "warmup", "seconds": round(seconds, 3)},
    )
    return seconds


def load(wanted: str, template_dirs: Iterable[Path] = ()) -> dict[str, Any]:
    """Return the graph of a template with its defaults, or of a file in API format.

    Raises:
        BadRequest: there is no such template or file, or it is not a graph; a template that needs
            parameters without defaults cannot warm up.

    """
    path = Path(wanted)
    if path.suffix != ".json" and "/" not in wanted:
        return templates.load(wanted, template_dirs).render().graph
    try:
        return graphs.parse(path.read_bytes())
    except OSError as problem:
        raise _unreadable(problem) from None


def _unreadable(problem: OSError) -> PennyreelError:
    return error(
        Code.BAD_WORKFLOW,
        f"it cannot be read: {problem.strerror or problem}",
        hint="Set PENNYREEL_WARMUP to a template's name or to a file of the image or volume.",
    )


def _run(
    session: Session,
    graph: dict[str, Any],
    folders: Mapping[str, Path],
    deadline: Deadline,
    cancel: CancelToken | None,
) -> None:
    folder = f"warmup-{uuid.uuid4().hex[:12]}"
    run = session.submit(graphs.prefix_outputs(graph, folder))
    try:
        _remove_outputs(session, run.wait(deadline, cancel), folder, folders)
    finally:
        shutil.rmtree(folders["output"] / folder, ignore_errors=True)
        _forget(session, run)


def _remove_outputs(
    session: Session, entry: Mapping[str, Any], folder: str, folders: Mapping[str, Path]
) -> None:
    """Remove what nodes wrote past their prefix; ComfyUI's cache must not name it to a job."""
    strays = [f for f in collect(entry)[0] if f.subfolder.split("/")[0] != folder]
    for stray in strays:
        with contextlib.suppress(PennyreelError, OSError):
            locate(stray, folders).unlink()
    if strays:
        session.http.free(unload_models=False)


def _forget(session: Session, run: Run) -> None:
    with contextlib.suppress(PennyreelError):
        session.http.forget(run.prompt_id)
