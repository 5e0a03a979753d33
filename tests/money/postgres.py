"""A real Postgres for the tests: a cluster of its own, on loopback, that ends with them."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from fakes.ports import port_for_later
from fakes.waits import eventually
from pennyreel_comfy.install import guard

INSTALL = (
    "There is no Postgres on this machine, and the ledger has to be tested on one. On Debian: "
    "apt-get update && apt-get install --yes --no-install-recommends postgresql"
)
NOBODY = ("postgres", "nobody")
"""Who runs it where we are root: it refuses to run as root."""

QUICK = ("fsync=off", "full_page_writes=off", "max_connections=120", "log_min_messages=fatal")


def programs() -> Path:
    """The folder with initdb and postgres, of the newest version there is."""
    on_path = shutil.which("initdb")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    if not found and on_path is None:
        pytest.fail(INSTALL, pytrace=False)
    return found[-1].parent if found else Path(str(on_path)).resolve().parent


@contextmanager
def cluster() -> Iterator[str]:
    """Yield the URL of a running server, without a database: append one's name."""
    where, user, password = programs(), _user(), secrets.token_hex(12)
    # Not pytest's folder: only root may enter that.
    folder = Path(tempfile.mkdtemp(prefix="pennyreel-postgres-"))
    try:
        (folder / "password").write_text(password)
        if user:
            shutil.chown(folder, user)
            shutil.chown(folder / "password", user)
        _initdb(where, folder, user)
        with _server(where, folder, user) as port:
            url = f"postgresql://pennyreel:{password}@127.0.0.1:{port}/"
            eventually(lambda: _answers(f"{url}postgres"), 30)
            yield url
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Databases:
    """The databases of a server."""

    def __init__(self, server: str) -> None:
        self._server, self._count = server, 0

    def make(self, name: str, like: str = "template0") -> str:
        """Make one and return its URL."""
        self._run(f"CREATE DATABASE {name} TEMPLATE {like}")
        return f"{self._server}{name}"

    @contextmanager
    def one(self, like: str = "template0") -> Iterator[str]:
        """Yield the URL of one that is gone afterwards."""
        self._count += 1
        name = f"test{self._count}"
        yield self.make(name, like)
        self._run(f"DROP DATABASE {name} WITH (FORCE)")

    def _run(self, statement: str) -> None:
        with psycopg.connect(f"{self._server}postgres", autocommit=True) as connection:
            connection.execute(statement.encode())


def _initdb(where: Path, folder: Path, user: str | None) -> None:
    done = subprocess.run(
        [
            *(*_as(user), where / "initdb", "-D", folder / "data", "-U", "pennyreel", "-E", "UTF8"),
            *("--auth=scram-sha-256", f"--pwfile={folder / 'password'}", "--no-sync"),
            "--locale=C.UTF-8",
        ],
        text=True,
        capture_output=True,
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@contextmanager
def _server(where: Path, folder: Path, user: str | None) -> Iterator[int]:
    """Run it under the guard, which ends it when the tests end, however they do."""
    port = port_for_later()
    settings = [
        *("listen_addresses=127.0.0.1", f"port={port}", f"unix_socket_directories={folder}"),
        *QUICK,
    ]
    options = [part for setting in settings for part in ("-c", setting)]
    server = [*_as(user), str(where / "postgres"), "-D", str(folder / "data"), *options]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, *server],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=folder,
            start_new_session=True,
        )
        try:
            yield port
        finally:
            _stop(process, folder)


def _stop(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Ask the server to end, so that it takes its shared memory with it; then make it."""
    pid = int((folder / "data/postmaster.pid").read_text().split()[0])
    os.kill(pid, 2)  # fast shutdown: connections are cut
    try:
        process.wait(20)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.wait(20)


def _as(user: str | None) -> list[str]:
    """Begin a command that is run as another user; Python itself may be out of that one's reach."""
    if user is None:
        return []
    group = str(pwd.getpwnam(user).pw_gid)
    return ["setpriv", "--reuid", user, "--regid", group, "--clear-groups", "--"]


def _user() -> str | None:
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in NOBODY if name in known)


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True
