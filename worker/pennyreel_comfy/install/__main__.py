"""`python -m pennyreel_comfy.install ROOT`: the installer, in plain lines for the image's build."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pennyreel_comfy.install import (
    DEVICES,
    Event,
    Note,
    StageDone,
    StageProgress,
    StageStarted,
    install,
)
from pennyreel_contract.errors import PennyreelError


def main(argv: list[str]) -> int:
    """Install, and return the exit code: 0, or 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="python -m pennyreel_comfy.install")
    parser.add_argument("root", type=Path, help="the folder to install into")
    parser.add_argument("--source", default="auto", help="auto, release, horde, or a folder")
    parser.add_argument("--device", default="auto", choices=["auto", *DEVICES])
    parser.add_argument("--no-verify", action="store_true", help="do not start it once")
    parser.add_argument("--reinstall", action="store_true", help="begin anew; keeps models")
    parser.add_argument("--frontend", action="store_true", help="with ComfyUI's own editor")
    options = parser.parse_args(argv)
    try:
        done = install(
            options.root,
            source=options.source,
            device=options.device,
            report=_Lines(),
            verify=not options.no_verify,
            reinstall=options.reinstall,
            frontend=options.frontend,
        )
    except PennyreelError as problem:
        tail = str(problem.info.detail.get("tail", ""))
        sys.stderr.write(f"{tail}\n" if tail else "")
        sys.stderr.write(f"error: {problem}\n{problem.hint}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("Stopped. Running it again resumes.\n")
        return 130
    _say(f"ComfyUI {done.comfyui_version}, torch {done.torch}, in {done.layout.root}")
    return 0


class _Lines:
    """Writes events as plain lines."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, event: Event) -> None:
        if isinstance(event, StageStarted):
            _say(f"[{event.index}/{event.total}] {event.name}")
        elif isinstance(event, StageProgress):
            # A fraction alone would fill a build log.
            if event.text != self._last:
                self._last = event.text
                _say(f"    {event.text}")
        elif isinstance(event, StageDone):
            _say(f"    {'was done' if event.skipped else f'done in {event.seconds:.1f} s'}")
        elif isinstance(event, Note):
            _say(event.text)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
