"""What this machine knows of package indexes, for a build that must not keep any of it.

pip's configuration becomes one file, a build secret; apt's folders, pip's local folders and the
certificates are mounted. Nothing is written here of where they point.
"""

from __future__ import annotations

import ast
import configparser
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

# Where the certificates go in the build: a folder that Debian's base has, and that is empty.
INSIDE = "/mnt"
# Named in the packages themselves.
_PUBLIC = {"", "files.pythonhosted.org", "pypi.org"}
_PATHS = {"find-links", "extra-index-url", "index-url"}
_KEPT = {*_PATHS, "cert", "trusted-host", "timeout", "proxy", "default-timeout"}


@dataclass(frozen=True)
class Machine:
    """The mounts and the secret for a build, and the marks that they must leave nowhere."""

    pip_conf: Path
    volumes: tuple[str, ...]
    marks: tuple[bytes, ...]
    mirror: str
    """Where apt gets Debian."""


def read_machine(folder: Path, mark: str) -> Machine:
    """Collect the configuration in `folder`, marked with `mark` so that a trace of it is found."""
    lent = folder / "lent"
    lent.mkdir()
    settings, folders = _pip_settings(lent)
    # An index with nothing in it: pip names its indexes in whatever it writes.
    (lent / mark).mkdir()
    indexes = [settings.get("extra-index-url", ""), f"file://{INSIDE}/{mark}"]
    settings["extra-index-url"] = " ".join(indexes).strip()
    pip_conf = folder / "pip.conf"
    lines = [f"{name} = {value}" for name, value in settings.items()]
    pip_conf.write_text("\n".join(["[global]", *lines]) + "\n")
    sources, mirror = _apt(folder, mark)
    words = {word for value in settings.values() for word in value.split()}
    hosts = {urlsplit(word).hostname or "" for word in words} - _PUBLIC
    return Machine(
        pip_conf=pip_conf,
        volumes=(
            f"{lent}:{INSIDE}:ro",
            f"{sources}:/etc/apt/sources.list.d:ro",
            *(f"{path}:{path}:ro" for path in sorted(folders)),
        ),
        marks=tuple(text.encode() for text in (mark, *sorted(hosts))),
        mirror=mirror,
    )


def _pip_settings(lent: Path) -> tuple[dict[str, str], set[Path]]:
    """Return pip's settings, with paths as the build sees them, and the folders they point to."""
    said = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    settings: dict[str, str] = {}
    for line in said.splitlines():
        name, _, quoted = line.partition("=")
        section, _, key = name.strip().rpartition(".")
        # The environment wins over files, and pip lists it first.
        if section in {"global", "install", ":env:"} and key in _KEPT:
            settings.setdefault(key, " ".join(str(ast.literal_eval(quoted)).split()))
    certificates = settings.get("cert") or os.environ.get("SSL_CERT_FILE")
    if certificates:
        (lent / "certificates.crt").write_bytes(Path(certificates).read_bytes())
        settings["cert"] = f"{INSIDE}/certificates.crt"
    words = [word for key in _PATHS for word in settings.get(key, "").split()]
    places = {Path(word.removeprefix("file://")) for word in words if _local(word)}
    return settings, {_top(place) for place in places if place.exists()}


def _local(word: str) -> bool:
    return word.startswith(("/", "file://"))


def _top(place: Path) -> Path:
    """Two levels are enough to hold what an index's pages point to, beside it."""
    return Path(*place.parts[:3])


def _apt(folder: Path, mark: str) -> tuple[Path, str]:
    """Copy apt's sources, and return the folder with them and the mirror of Debian itself."""
    sources = folder / "sources.list.d"
    sources.mkdir()
    found = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    text = ""
    for file in found:
        if file.is_file() and file.suffix in {".list", ".sources"}:
            content = file.read_text("utf-8")
            (sources / file.name).write_text(f"# {mark}\n{content}")
            text += content + "\n"
    urls = re.findall(r"https?://\S+", re.sub(r"(?m)^\s*#.*$", "", text))
    mirrors = [url for url in urls if "security" not in url and url.rstrip("/").endswith("debian")]
    assert mirrors, "apt is not set up for Debian here"
    return sources, mirrors[0]


def release() -> str:
    """Return the code name of this Debian, whose Python the build will have."""
    parser = configparser.ConfigParser()
    parser.read_string("[os]\n" + Path("/etc/os-release").read_text("utf-8"))
    return parser["os"]["VERSION_CODENAME"].strip('"')
