"""`python -m pennyreel_comfy.install ROOT`: the installer, in plain lines for the image's build."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pennyreel_comfy.install import DEVICES, install, install_until
from pennyreel_comfy.install.lines import Lines, complain, say
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
    parser.add_argument("--until", metavar="STAGE", help="stop after this stage")
    options = parser.parse_args(argv)
    try:
        if options.until:
            install_until(
                options.until,
                options.root,
                source=options.source,
                device=options.device,
                report=Lines(),
            )
            return 0
        done = install(
            options.root,
            source=options.source,
            device=options.device,
            report=Lines(),
            verify=not options.no_verify,
            reinstall=options.reinstall,
            frontend=options.frontend,
        )
    except PennyreelError as problem:
        complain(problem)
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("Stopped. Running it again resumes.\n")
        return 130
    say(f"ComfyUI {done.comfyui_version}, torch {done.torch}, in {done.layout.root}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
