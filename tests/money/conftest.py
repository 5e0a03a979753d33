"""Every test of the ledger runs on SQLite and on a real Postgres."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from money.postgres import cluster
from money.support import Clock, Place
from pennyreel.money.ledger import Ledger


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PENNYREEL_HOME, empty; nothing of this machine's own settings is seen."""
    for name in list(os.environ):
        if name.startswith(("PENNYREEL_", "PG")):
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
def _count() -> Callable[[], int]:
    numbers = iter(range(1_000_000))
    return lambda: next(numbers)


@pytest.fixture(params=["sqlite", "postgres"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, _count: Callable[[], int]
) -> Iterator[Place]:
    """Where an empty ledger can be made: a file, or a database on the server."""
    if request.param == "sqlite":
        yield Place(f"sqlite:///{tmp_path / 'ledger.db'}")
        return
    server, name = request.getfixturevalue("postgres"), f"t{_count()}"
    with psycopg.connect(f"{server}postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield Place(f"{server}{name}")
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def clock() -> Clock:
    """A clock that stands until it is moved."""
    return Clock()


@pytest.fixture
def ledger(place: Place, clock: Clock) -> Iterator[Ledger]:
    """An empty ledger by that clock."""
    with place.open(clock) as opened:
        yield opened
