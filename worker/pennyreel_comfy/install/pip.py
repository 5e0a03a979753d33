"""pip in ComfyUI's environment: arguments, progress, and mending what a kill left behind."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from pennyreel_comfy.install.layout import Layout

# Settings of ours or the user's that would send packages elsewhere than into the environment.
_STRIPPED = frozenset(
    {
        "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV", "PIP_ROOT", "PIP_TARGET", "PYTHONHOME",
        "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__",
    }
)  # fmt: skip

# --progress-bar=raw, which prints "Progress N of M" without a terminal, came with this version.
_RAW_PROGRESS_SINCE = (24, 1)


def pip_env(environ: Mapping[str, str], downloads: Path) -> dict[str, str]:
    """Return pip's environment: the user's, whose indexes, proxies and certificates it needs."""
    env = {name: value for name, value in environ.items() if name not in _STRIPPED}
    # Temporary files go beside the installation: /tmp may be small, and what a killed pip leaves
    # there nobody would remove.
    temporary = str(downloads / "tmp")
    env.update(TMPDIR=temporary, TEMP=temporary, TMP=temporary)
    env.update(PIP_USER="0", PIP_NO_INPUT="1", PIP_DISABLE_PIP_VERSION_CHECK="1")
    env.update(PYTHONUTF8="1", PYTHONUNBUFFERED="1", PYTHONWARNINGS="ignore")
    return env


def pip_command(layout: Layout, *arguments: str) -> list[str]:
    """Return the argv of one pip run. -I: neither PYTHON* variables nor the user's site count."""
    argv = [str(layout.python), "-I", "-m", "pip", "--no-input", "--disable-pip-version-check"]
    argv += arguments[:1]
    if _pip_version(layout) >= _RAW_PROGRESS_SINCE:
        argv.append("--progress-bar=raw")
    return [*argv, *arguments[1:]]


def installed(layout: Layout) -> dict[str, str]:
    """Return the version of each completely installed distribution, by its normal name."""
    found = {}
    for info in layout.site_packages.glob("*.dist-info"):
        name, _, version = info.name.removesuffix(".dist-info").partition("-")
        if _complete(info):
            found[normal(name)] = version
    return found


def normal(name: str) -> str:
    """Return a distribution's name in its normal form."""
    return re.sub(r"[-_.]+", "-", name).lower()


def required_name(requirement: str) -> str:
    """Return the normal name of what a requirement line requires."""
    return normal(re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0])


def sweep(layout: Layout) -> int:
    """Remove the records of distributions that a killed pip left half installed; return how many.

    pip would take them for complete. Their files stay: pip writes over them.
    """
    swept = 0
    for entry in layout.site_packages.glob("*"):
        # ~name: what pip had moved out of the way while it replaced it.
        if entry.name.startswith("~") or (
            entry.name.endswith(".dist-info") and not _complete(entry)
        ):
            shutil.rmtree(entry, ignore_errors=True)
            swept += 1
    return swept


class Progress:
    """Turns pip's lines into a fraction that never goes back, and a text."""

    def __init__(self, report: Callable[[float | None, str], None], *, expected: int) -> None:
        self._report = report
        self._expected = max(expected, 1)
        self._collected: set[str] = set()
        self._fraction = 0.0
        self._text = ""

    def line(self, line: str) -> None:
        """Take one line."""
        line = line.strip()
        raw = re.fullmatch(r"Progress (\d+) of (\d+)", line)
        if raw:
            self._bytes(int(raw[1]), int(raw[2]))
        elif line.startswith("Collecting "):
            self._collected.add(line)
            # Downloading is most of the work; installing is the rest.
            self._tell(0.75 * len(self._collected) / self._expected, line)
        elif line.startswith(("Downloading ", "Using cached ", "Processing ")):
            self._tell(self._fraction, line.split(" (from ")[0])
        elif line.startswith("Installing collected packages"):
            self._tell(0.8, "Installing the packages")
        elif line.startswith("Successfully installed"):
            self._tell(1.0, "Installed")

    def _bytes(self, done: int, total: int) -> None:
        share = done / total if total else 0.0
        start = 0.75 * (len(self._collected) - 1) / self._expected
        fraction = start + share * 0.75 / self._expected
        if done == total or fraction - self._fraction > 0.01:
            self._tell(fraction, self._text)

    def _tell(self, fraction: float, text: str) -> None:
        self._fraction = max(self._fraction, min(fraction, 1.0))
        self._text = text
        self._report(self._fraction, text)


def _pip_version(layout: Layout) -> tuple[int, ...]:
    found = re.findall(r"\d+", installed(layout).get("pip", "0"))
    return tuple(int(part) for part in found[:2])


def _complete(info: Path) -> bool:
    """Say whether pip has finished with a distribution.

    The wheel's own RECORD is unpacked with the rest. pip's, written last, and at once, also lists
    the INSTALLER file that pip adds.
    """
    try:
        record = (info / "RECORD").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return f"{info.name}/INSTALLER," in record.replace(os.sep, "/")
