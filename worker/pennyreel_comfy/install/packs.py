"""Where a node pack comes from: a commit of a repository, ComfyUI's registry, or a path."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import requests

from pennyreel_comfy.install.archives import copy_tree, unpack_release, unpack_zip
from pennyreel_comfy.install.sources import Fetch
from pennyreel_contract.errors import Code, error

REGISTRY = "https://api.comfy.org"
"""ComfyUI's registry of node packs: `GET /nodes/NAME/install` names the archive of a version."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_OWN = re.compile(r"""^\s*version\s*=\s*["']([^"'\s]+)["']""", re.MULTILINE)
_VERSION = ".pennyreel-version"
_LONGEST = 100
_TIMEOUT = (10, 60)
_GIT_SECONDS = 600.0


@dataclass(frozen=True)
class Pack:
    """One node pack as it was asked for."""

    name: str
    """Its folder in custom_nodes."""
    kind: str
    """git, registry or path."""
    source: str
    """The repository's URL, the name in the registry, or the path."""
    version: str = ""
    """The commit, or the version in the registry; empty: the newest there."""


def parse_pack(text: str) -> Pack:
    """Read `URL@COMMIT`, `NAME`, `NAME@VERSION`, or a path that has a slash.

    Raises SetupNeeded: it is none of these, or a repository without a whole commit.
    """
    if "://" in text:
        url, _, commit = text.rpartition("@") if "@" in urlsplit(text).path else (text, "", "")
        url = url.rstrip("/").removesuffix(".git")
        if not _COMMIT.fullmatch(commit):
            raise _refused(text, "Pin it by its whole commit: URL@COMMIT, with 40 digits.")
        return Pack(_folder_name(url.rpartition("/")[2], text), "git", url, commit)
    if "/" in text:
        name = Path(text).name.removesuffix(".tar.gz").removesuffix(".zip")
        return Pack(_folder_name(name, text), "path", text)
    name, _, version = text.partition("@")
    return Pack(_folder_name(name, text), "registry", name, version)


def obtain(pack: Pack, target: Path, scratch: Path, *, fetch: Fetch, registry: str) -> str:
    """Lay the pack's files out in `target`; return the version that was taken.

    Raises SetupNeeded (`install_failed`) where it cannot be had.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        if pack.kind == "git":
            return _git(pack, target, scratch, fetch)
        if pack.kind == "registry":
            return _registry(pack, target, scratch, fetch, registry)
        return _path(pack, target)
    except (OSError, ValueError, zipfile.BadZipFile) as problem:
        raise error(
            Code.INSTALL_FAILED, f"The node pack {pack.name} cannot be had: {problem}"
        ) from problem


def note_version(folder: Path, version: str) -> None:
    """Keep with a pack which version it is: a commit is nowhere among its files."""
    if version:
        (folder / _VERSION).write_text(version + "\n", encoding="utf-8")


def version_of(folder: Path) -> str:
    """Return a pack's version: the one that was noted, else its own; empty where neither is."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return (folder / _VERSION).read_text(encoding="utf-8").strip()[:_LONGEST]
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = (folder / "pyproject.toml").read_text(encoding="utf-8")
        found = _OWN.search(text)
        return found[1][:_LONGEST] if found else ""
    return ""


def _git(pack: Pack, target: Path, scratch: Path, fetch: Fetch) -> str:
    # GitHub and GitLab make archives of a commit, so that the image needs no git.
    repository = pack.source.rpartition("/")[2]
    archives = {
        "github.com": f"{pack.source}/archive/{pack.version}.tar.gz",
        "gitlab.com": f"{pack.source}/-/archive/{pack.version}/{repository}.tar.gz",
    }
    url = archives.get(urlsplit(pack.source).hostname or "")
    if url is None:
        _clone(pack, target)
    else:
        archive = scratch / "pack.tar.gz"
        fetch(url, archive)
        unpack_release(archive, target)
        archive.unlink()
    return pack.version


def _clone(pack: Pack, target: Path) -> None:
    tool = shutil.which("git")
    if tool is None:
        raise error(
            Code.INSTALL_FAILED,
            f"{pack.source} is neither on github.com nor on gitlab.com, and git is not installed.",
            hint="Install git first (apt-get install git), or copy the pack and name its path.",
        )
    for command in (
        ["clone", "--quiet", "--no-checkout", pack.source, str(target)],
        ["-C", str(target), "checkout", "--quiet", "--detach", pack.version],
    ):
        done = subprocess.run(
            [tool, *command], capture_output=True, text=True, timeout=_GIT_SECONDS, check=False
        )
        if done.returncode != 0:
            raise error(
                Code.INSTALL_FAILED,
                f"git could not get {pack.source} at {pack.version}.",
                detail={"tail": done.stderr[-2000:]},
            )
    shutil.rmtree(target / ".git")


def _registry(pack: Pack, target: Path, scratch: Path, fetch: Fetch, registry: str) -> str:
    url = f"{registry}/nodes/{quote(pack.source, safe='')}/install"
    asked = {"version": pack.version} if pack.version else {}
    try:
        answer = requests.get(url, params=asked, timeout=_TIMEOUT)
        body = answer.json() if answer.status_code == 200 else {}
    except (requests.RequestException, json.JSONDecodeError) as problem:
        raise error(
            Code.INSTALL_FAILED, f"ComfyUI's registry does not answer: {problem}"
        ) from problem
    download, version = body.get("downloadUrl"), body.get("version")
    if not isinstance(download, str) or not isinstance(version, str):
        wanted = f"{pack.source}@{pack.version}" if pack.version else pack.source
        raise error(
            Code.INSTALL_FAILED,
            f"ComfyUI's registry has no node pack {wanted} (HTTP {answer.status_code}).",
            hint="Look its name up on registry.comfy.org, or use its repository: URL@COMMIT.",
            retryable=False,
        )
    archive = scratch / "pack.zip"
    fetch(download, archive)
    unpack_zip(archive, target)
    archive.unlink()
    return version


def _path(pack: Pack, target: Path) -> str:
    path = Path(pack.source)
    if path.is_dir():
        copy_tree(path, target)
    elif path.name.endswith(".tar.gz"):
        unpack_release(path, target)
    else:
        unpack_zip(path, target)
    return ""


def _folder_name(name: str, text: str) -> str:
    if not _NAME.fullmatch(name):
        raise _refused(text, "Name it as URL@COMMIT, NAME, NAME@VERSION, or a path with a slash.")
    return name


def _refused(text: str, hint: str) -> Exception:
    return error(Code.NOT_CONFIGURED, f"{text!r} is no node pack that can be installed.", hint=hint)
