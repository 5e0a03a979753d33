"""The image, built once from the Dockerfile over a Debian of this machine's own mirror."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from image.buildah import Container, Store
from image.machine import Machine, read_machine, release

ROOT = Path(__file__).parents[2]
BASE = "localhost/debian"
IMAGE = "localhost/pennyreel-worker"
# What the image is built from, and the client, which must not matter to it.
CONTEXT = (".dockerignore", "Dockerfile", "LICENSE", "client", "worker", "workflows")
# The CPU flavour; ComfyUI from its wheel and no node packs, since github.com may be out of reach.
ARGUMENTS = {
    "BASE_IMAGE": BASE,
    "TORCH": "cpu",
    "COMFYUI_SOURCE": "horde",
    "NODES": "none",
    "MODELS": "none",
}


@dataclass(frozen=True)
class Built:
    """The image, the store that holds it, and how it came about."""

    store: Store
    machine: Machine
    context: Path
    name: str
    seconds: float

    def build(
        self,
        context: Path,
        name: str,
        *,
        arguments: dict[str, str] | None = None,
        secrets: Sequence[str] = (),
        check: bool = True,
    ) -> str:
        """Build with what this machine lends; return what the build said."""
        return self.store.build(
            context,
            name,
            arguments=arguments or {},
            volumes=self.machine.volumes,
            secrets=(f"id=pip,src={self.machine.pip_conf}", *secrets),
            check=check,
        )


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder below `build`, since /tmp may be small; nothing of it stays."""
    (ROOT / "build").mkdir(exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix="image-", dir=ROOT / "build"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="session")
def store(folder: Path) -> Iterator[Store]:
    """An empty store of images."""
    made = Store(folder / "store")
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="session")
def machine(folder: Path) -> Machine:
    """This machine's pip and apt."""
    return read_machine(folder, f"mark-{secrets.token_hex(12)}")


@pytest.fixture(scope="session")
def built(folder: Path, store: Store, machine: Machine) -> Built:
    """The image's CPU flavour."""
    _debian(folder / "debian", machine.mirror)
    store.import_folder(folder / "debian", BASE)
    shutil.rmtree(folder / "debian")
    context = folder / "context"
    copy_context(context)
    began = time.monotonic()
    image = Built(store, machine, context, IMAGE, 0.0)
    image.build(context, IMAGE, arguments=ARGUMENTS)
    return replace(image, seconds=time.monotonic() - began)


@pytest.fixture(scope="session")
def archive(built: Built) -> Iterator[Path]:
    """The image as one file, whose layers are not compressed."""
    path = built.store.folder / "image.tar"
    built.store.run("push", built.name, f"docker-archive:{path}")
    try:
        yield path
    finally:
        path.unlink()


@pytest.fixture
def container(built: Built) -> Iterator[Container]:
    """A container of the image."""
    with built.store.container(built.name) as made:
        yield made


@pytest.fixture
def context(folder: Path) -> Iterator[Path]:
    """A folder to build from. pytest would keep what lies in a tmp_path: gigabytes."""
    made = Path(tempfile.mkdtemp(prefix="context-", dir=folder))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def extended(built: Built, context: Path) -> Callable[..., str]:
    """`extended(name, lines)`: build a Dockerfile FROM the image, in the folder `context`."""

    def build(name: str, lines: list[str], *, check: bool = True) -> str:
        (context / "Dockerfile").write_text("\n".join([f"FROM {built.name}", *lines]) + "\n")
        return built.build(context, name, check=check)

    return build


def copy_context(target: Path) -> None:
    """Copy what a build could see of the repository: a change of it then meets no other test."""
    target.mkdir()
    for name in CONTEXT:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / name)


def _debian(folder: Path, mirror: str) -> None:
    """Make the base: what an image named debian has, less its list of mirrors."""
    made = subprocess.run(
        ["debootstrap", "--variant=minbase", release(), str(folder), mirror],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert made.returncode == 0, made.stdout[-3000:] + made.stderr[-1000:]
    (folder / "etc/apt/sources.list").unlink()
    for lists in (folder / "var/lib/apt/lists").iterdir():
        shutil.rmtree(lists) if lists.is_dir() else lists.unlink()
    for file in ("var/log/bootstrap.log", "etc/hostname", "etc/resolv.conf"):
        (folder / file).unlink(missing_ok=True)
    # Else every image repeats what the archive's packages weigh: apt's cache of them.
    for package in (folder / "var/cache/apt/archives").glob("*.deb"):
        package.unlink()
