"""Adds node packs to an installation, and sees to it that ComfyUI can import all of them.

    python -m pennyreel_comfy.install.nodes ROOT https://github.com/OWNER/PACK@COMMIT NAME@VERSION

The image's build does this for the packs of the lock file, a Dockerfile that extends it for others.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pennyreel_comfy.install import pip, verify
from pennyreel_comfy.install.events import Note, Report
from pennyreel_comfy.install.job import Job, Tools
from pennyreel_comfy.install.layout import Installation, child_env
from pennyreel_comfy.install.lines import Lines, complain, say
from pennyreel_comfy.install.lock import Lock, read_lock
from pennyreel_comfy.install.packs import REGISTRY, Pack, note_version, obtain, parse_pack
from pennyreel_comfy.install.planning import Request
from pennyreel_comfy.install.state import State, exclusive
from pennyreel_contract.errors import Code, PennyreelError, error

# Of ComfyUI's own: they need torchaudio, which is not installed (see lock.toml).
KNOWN_ABSENT = frozenset({"nodes_audio.py", "nodes_audio_encoder.py"})

_IMPORT_SECONDS = 600.0
_CUSTOM = re.compile(r"\s*[\d.]+ seconds( \(IMPORT FAILED\))?: (.+)")
_BUILT_IN = re.compile(r"IMPORT FAILED: (\S+)")
_REASON = re.compile(r"Cannot import (.+?) module for custom nodes: (.*)")

# The same module, without a display: the full build needs libGL, half a desktop.
_HEADLESS = {
    "opencv-python": "opencv-python-headless",
    "opencv-contrib-python": "opencv-contrib-python-headless",
}


@dataclass(frozen=True)
class Imports:
    """What ComfyUI said of its imports."""

    packs: tuple[str, ...]
    """The packs that were imported, by folder or file."""
    failed: dict[str, str]
    """Those that were not, each with the reason; ComfyUI's own nodes by their file."""


def add_packs(
    installation: Installation,
    packs: Sequence[Pack],
    *,
    report: Report,
    tools: Tools | None = None,
    registry: str = REGISTRY,
    own_versions: bool = False,
) -> Imports:
    """Install node packs with what they require, then import all nodes there are.

    torch stays as it is. Other packages keep the lock's versions, unless `own_versions`.

    Raises SetupNeeded (`install_failed`): a pack cannot be had, its requirements do not fit, or a
    node is not imported: such a pack is taken out again. Those that were there before stay.
    """
    layout = installation.layout
    if not os.access(layout.comfy / "custom_nodes", os.W_OK):
        raise error(
            Code.NOT_CONFIGURED,
            f"{layout.comfy / 'custom_nodes'} is not yours to write to.",
            hint="In a Dockerfile, put USER root before this command and USER pennyreel after it.",
        )
    with exclusive(layout):
        job = _job(installation, report, tools)
        for pack in packs:
            report(Note(f"Node pack {pack.name} from {pack.source} {pack.version}".rstrip()))
            _add(job, installation, pack, registry, own_versions=own_versions)
        try:
            found = check_imports(job, installation)
        except PennyreelError as problem:
            # Else it would look as if it were there the next time.
            failed = problem.info.detail.get("failed")
            for name in [p.name for p in packs if isinstance(failed, dict) and p.name in failed]:
                shutil.rmtree(layout.comfy / "custom_nodes" / name, ignore_errors=True)
            raise
        shutil.rmtree(layout.downloads, ignore_errors=True)
        # It names pip's indexes, which are nobody's business in an image.
        (layout.logs / f"{job.stage}.log").unlink(missing_ok=True)
    return found


def locked_packs(lock: Lock) -> list[Pack]:
    """Return the image's own packs."""
    return [Pack(one.name, "git", one.repository, one.commit) for one in lock.nodes.packs]


def check_imports(job: Job, installation: Installation) -> Imports:
    """Have ComfyUI import every node, its own and the packs', on the CPU, and end.

    Raises SetupNeeded (`install_failed`) naming each one that was not imported.
    """
    lines: list[str] = []
    layout = installation.layout
    layout.downloads.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=layout.downloads, ignore_cleanup_errors=True) as name:
        argv = installation.command(0, extra=["--cpu", "--quick-test-for-ci"])
        argv += verify.scratch(Path(name))
        outcome = job.run(
            argv, env=installation.env(), on_line=lines.append, timeout=_IMPORT_SECONDS
        )
    found = read_imports(lines)
    if outcome.code != 0 or found.failed:
        reasons = "; ".join(f"{name}: {why}" for name, why in sorted(found.failed.items()))
        raise error(
            Code.INSTALL_FAILED,
            f"ComfyUI cannot import all of its nodes: {reasons or outcome.tail[-300:]}",
            hint="Read the tail of its log in this error's detail.",
            detail={"tail": outcome.tail, "failed": dict(found.failed)},
        )
    return found


def read_imports(lines: Sequence[str]) -> Imports:
    """Read what ComfyUI prints at its start; what is known to be absent is no failure."""
    reasons: dict[str, str] = {}
    packs: list[str] = []
    failed: list[str] = []
    for line in lines:
        if match := _REASON.match(line):
            reasons[Path(match[1]).name] = match[2].strip()
        elif match := _BUILT_IN.match(line):
            failed.append(match[1])
        elif match := _CUSTOM.match(line):
            (failed if match[1] else packs).append(Path(match[2].strip()).name)
    return Imports(
        tuple(sorted(packs)),
        {
            name: reasons.get(name, "it registers no node")
            for name in failed
            if name not in KNOWN_ABSENT
        },
    )


def _job(installation: Installation, report: Report, tools: Tools | None) -> Job:
    layout = installation.layout
    return Job(
        layout=layout,
        request=Request(device=installation.device),
        lock=read_lock(),
        tools=tools or Tools(),
        report=report,
        state=State(layout.state),
        stage="nodes",
    )


def _add(
    job: Job, installation: Installation, pack: Pack, registry: str, *, own_versions: bool
) -> None:
    layout = job.layout
    partial = layout.downloads / "pack"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    version = obtain(
        pack, partial, layout.downloads / "archive", fetch=job.tools.fetch, registry=registry
    )
    if not (partial / "__init__.py").is_file():
        raise error(
            Code.INSTALL_FAILED,
            f"{pack.source} is no node pack: it has no __init__.py.",
            retryable=False,
        )
    wanted = wanted_by(partial)
    if wanted:
        job.pip(
            *_install(job, installation, own_versions=own_versions), *wanted, expected=len(wanted)
        )
    if (partial / "install.py").is_file():
        _run_install(job, partial)
    note_version(partial, version)
    target = layout.comfy / "custom_nodes" / pack.name
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def wanted_by(folder: Path) -> list[str]:
    """Return what a pack's requirements.txt asks for, as pip takes it here."""
    try:
        text = (folder / "requirements.txt").read_text(encoding="utf-8")
    except OSError:
        return []
    wanted = []
    for line in text.splitlines():
        requirement = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()
        if not requirement or requirement.startswith("-"):
            continue
        name = pip.required_name(requirement)
        if name in _HEADLESS:
            rest = re.sub(r"^[A-Za-z0-9._-]+", "", requirement)
            requirement = _HEADLESS[name] + rest
        wanted.append(requirement)
    return wanted


def _install(job: Job, installation: Installation, *, own_versions: bool) -> list[str]:
    # Never another torch: it is most of the image, and ComfyUI was checked with this one.
    lock = job.lock
    pins = [f"torch=={installation.torch}", f"torchvision=={lock.torch.torchvision}"]
    if not own_versions:
        pins += [*lock.requirements.pins, *lock.nodes.pins]
    file = job.layout.downloads / "constraints.txt"
    file.write_text("\n".join(pins) + "\n", encoding="utf-8")
    return ["install", "--no-compile", "--prefer-binary", "--constraint", str(file)]


def _run_install(job: Job, folder: Path) -> None:
    argv = [str(job.layout.python), str(folder / "install.py")]
    outcome = job.run(argv, env=child_env(os.environ), timeout=_IMPORT_SECONDS)
    if outcome.code != 0:
        raise error(
            Code.INSTALL_FAILED,
            f"The install.py of {folder.name} failed.",
            detail={"tail": outcome.tail},
        )


def main(argv: list[str]) -> int:
    """Add the packs named, and return the exit code: 0, or 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="comfy-node-install")
    parser.add_argument("root", type=Path, help="the folder of the installation")
    parser.add_argument("pack", nargs="*", help="URL@COMMIT, NAME, NAME@VERSION, or a path")
    parser.add_argument(
        "--packs", choices=["default", "none"], default="none", help="also those of lock.toml"
    )
    parser.add_argument(
        "--own-versions", action="store_true", help="let packs replace packages, torch apart"
    )
    parser.add_argument("--registry", default=REGISTRY, help="the registry that has NAMEs")
    options = parser.parse_args(argv)
    try:
        installation = Installation.load(options.root)
        if installation is None:
            raise error(Code.NOT_INSTALLED, f"there is no ComfyUI in {options.root}")
        packs = locked_packs(read_lock()) if options.packs == "default" else []
        found = add_packs(
            installation,
            [*packs, *(parse_pack(text) for text in options.pack)],
            report=Lines(),
            registry=options.registry.rstrip("/"),
            own_versions=options.own_versions,
        )
    except PennyreelError as problem:
        complain(problem)
        return 1
    say(f"Imported: ComfyUI's own nodes, {', '.join(found.packs)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
