"""Every test of the ledger runs on SQLite and on a real Postgres."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from money.postgres import Databases, cluster
from money.support import Clock, Place
from pennyreel.money.ledger import Ledger


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PENNYREEL_HOME, empty; nothing of this machine's own settings is seen."""
    for name in list(os.environ):
        if name.startswith(("PENNYREEL_", "RUNPOD_", "PG")) or "proxy" in name.lower():
            monkeypatch.delenv(name)
    monkeypatch.setenv("PENNYREEL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PENNYREEL_CONFIG", os.devnull)
    return tmp_path / "home"


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A server's URL, up to the database's name."""
    with cluster() as url:
        yield url


@pytest.fixture(scope="session")
def servers(postgres: str) -> Databases:
    """Databases on that server; one with a ledger's tables is made once and copied."""
    made = Databases(postgres)
    Place(made.make("ledger")).open().close()
    return made


@pytest.fixture(params=["sqlite", "postgres"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each test runs once on each."""
    return str(request.param)


@pytest.fixture
def bare(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Where a ledger can be made: no file, or an empty database on the server."""
    if kind == "sqlite":
        yield Place(f"sqlite:///{tmp_path / 'ledger.db'}")
        return
    with request.getfixturevalue("servers").one() as url:
        yield Place(url)


@pytest.fixture
def place(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Where an empty ledger is."""
    if kind == "sqlite":
        yield Place(f"sqlite:///{tmp_path / 'ledger.db'}")
        return
    with request.getfixturevalue("servers").one(like="ledger") as url:
        yield Place(url)


@pytest.fixture
def clock() -> Clock:
    """A clock that stands until it is moved."""
    return Clock()


@pytest.fixture
def ledger(place: Place, clock: Clock) -> Iterator[Ledger]:
    """An empty ledger by that clock."""
    with place.open(clock) as opened:
        yield opened
