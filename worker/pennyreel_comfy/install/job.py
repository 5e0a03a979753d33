"""One run of the installer: what its stages share, and how they reach the world."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pennyreel_comfy.install import pip, sources, verify
from pennyreel_comfy.install.children import Outcome, run
from pennyreel_comfy.install.devices import Facts, probe
from pennyreel_comfy.install.events import Report, StageProgress
from pennyreel_comfy.install.layout import Layout
from pennyreel_comfy.install.lock import Lock
from pennyreel_comfy.install.planning import Plan, Request, answers
from pennyreel_comfy.install.state import State
from pennyreel_contract.errors import Code, PennyreelError, error

_PIP_SECONDS = 2 * 3600.0
_CHILD_SECONDS = 300.0


@dataclass(frozen=True)
class Tools:
    """How an installation reaches the world. Tests give their own."""

    run: Callable[..., Outcome] = run
    fetch: sources.Fetch = sources.download
    facts: Callable[[], Facts] = probe
    reachable: Callable[[str], bool] = answers
    free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free
    render: Callable[..., None] = verify.render_once
    interpreter: str = ""
    """The Python to build ComfyUI's environment with."""


@dataclass
class Job:
    """One run of the installer: what the stages share."""

    layout: Layout
    request: Request
    lock: Lock
    tools: Tools
    report: Report
    state: State
    stage: str = ""
    _plan: Plan | None = field(default=None, repr=False)

    @property
    def plan(self) -> Plan:
        """The plan, which the first stage makes or takes up again."""
        if self._plan is None:
            raise error(Code.INTERNAL, "The installer has no plan yet.")
        return self._plan

    @plan.setter
    def plan(self, plan: Plan) -> None:
        self._plan = plan

    def progress(self, fraction: float | None, text: str) -> None:
        """Tell how far the stage is."""
        self.report(StageProgress(self.stage, fraction, text))

    def run(
        self,
        argv: list[str],
        *,
        env: dict[str, str],
        on_line: Callable[[str], None] = lambda _: None,
        timeout: float = _CHILD_SECONDS,
    ) -> Outcome:
        """Run a child to its end; its output goes to the stage's log."""
        log = self.layout.logs / f"{self.stage}.log"
        return self.tools.run(
            argv, env=env, cwd=self.layout.root, log=log, on_line=on_line, timeout=timeout
        )

    def pip(self, *arguments: str, expected: int = 1) -> None:
        """Run pip in ComfyUI's environment; raise with the tail of its output when it fails."""
        temporary = self.layout.downloads / "tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        progress = pip.Progress(self.progress, expected=expected)
        outcome = self.run(
            pip.pip_command(self.layout, *arguments),
            env=pip.pip_env(os.environ, self.layout.downloads),
            on_line=progress.line,
            timeout=_PIP_SECONDS,
        )
        shutil.rmtree(temporary, ignore_errors=True)
        if outcome.code != 0:
            raise _pip_failed(self.stage, outcome)


def _pip_failed(stage: str, outcome: Outcome) -> PennyreelError:
    reasons = [line for line in outcome.tail.splitlines() if line.startswith("ERROR:")]
    reason = (reasons[-1] if reasons else outcome.tail.rpartition("\n")[2]).strip()
    hint = "Read the tail of pip's output in this error's detail. Running it again resumes."
    if "No matching distribution" in outcome.tail:
        hint = "Does pip's index serve this Python? The pins are for Python 3.10 to 3.14."
    elif "No space left" in outcome.tail:
        hint = "Free some room on the disk and run this again: it resumes."
    return error(
        Code.INSTALL_FAILED,
        f"pip failed in the stage {stage!r}: {reason}",
        hint=hint,
        detail={"tail": outcome.tail, "exit_code": outcome.code},
    )
