"""The database under the ledger: SQLite on this machine, or a Postgres that several share.

Writers take turns, on both: SQLite by BEGIN IMMEDIATE, Postgres by one advisory lock. So what a
write has read stays true until it commits, and none fails because another was faster.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    NotSupportedError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from pennyreel.config import Secret
from pennyreel.errors import Code, PennyreelError, error

BUSY_S = 60
"""How long a writer waits for its turn."""

_WRITES = "pennyreel_writes"
_TURN = text(
    f"SELECT set_config('lock_timeout', '{BUSY_S}s', true),"
    # A client that was stopped in the middle of a write must not stop all others.
    f" set_config('idle_in_transaction_session_timeout', '{BUSY_S // 2}s', true),"
    " pg_advisory_xact_lock(7366956737)"
)
"""One statement, evaluated from left to right; what is read after it sees every former write."""
_OURS = (DataError, IntegrityError, NotSupportedError, ProgrammingError)
"""Errors that a bug of this package makes, and no setting cures."""


class Database:
    """One engine. Thread-safe, and usable in a child that was forked."""

    def __init__(self, url: URL, place: str) -> None:
        """Connect later; see `of_file` and `of_url`."""
        self.place = place
        """How messages name it: without user, password and options."""
        self.postgres = url.get_backend_name() == "postgresql"
        self._pid = os.getpid()
        self._engine = _postgres(url) if self.postgres else _sqlite(url)

    @classmethod
    def of_file(cls, path: Path) -> Database:
        """Return the SQLite database at `path`, made if need be; only its user may read it.

        Raises:
            SetupNeeded: `ledger_unusable`.

        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Never one that is there: closing it would end the locks that this process has on it by
            # other connections, and the next process to close it would take the log from them.
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except OSError as problem:
            raise _unusable(str(path), problem.strerror or type(problem).__name__) from None
        found = cls(URL.create("sqlite", database=str(path)), str(path))
        try:
            found._use_wal(path)
        except BaseException:
            found.close()
            raise
        return found

    @classmethod
    def of_url(cls, secret: Secret) -> Database:
        """Return the database that a URL names: postgresql://… or sqlite:///PATH.

        Raises:
            SetupNeeded: `not_configured`: it names no such database.

        """
        try:
            url = make_url(secret.reveal())
            scheme = url.drivername
        except (ArgumentError, ValueError):
            scheme = ""
        if scheme == "sqlite" and url.database:
            return cls.of_file(Path(url.database).expanduser().absolute())
        if scheme in {"postgres", "postgresql", "postgresql+psycopg"}:
            return _open_postgres(url.set(drivername="postgresql+psycopg"))
        raise error(  # not quoted: it may hold a password
            Code.NOT_CONFIGURED,
            "the ledger's URL names no database that is known here",
            hint="Write PENNYREEL_LEDGER_URL like postgresql://USER:PASSWORD@HOST/DATABASE",
        )

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Yield a connection that sees one moment of the ledger.

        Raises:
            SetupNeeded: `ledger_unusable`.

        """
        with self._connection(writes=False) as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Yield the only connection that writes; commits at the end, or leaves no trace.

        Raises:
            SetupNeeded: `ledger_unusable`: nothing was written, as far as can be told.

        """
        with self._connection(writes=True) as connection:
            if self.postgres:
                connection.execute(_TURN)
            yield connection

    def close(self) -> None:
        """Let all connections go."""
        self._engine.dispose()

    @contextmanager
    def _connection(self, *, writes: bool) -> Iterator[Connection]:
        if os.getpid() != self._pid:  # forked: the connections are still the parent's
            self._engine.dispose(close=False)
            self._pid = os.getpid()
        options: dict[str, Any] = {_WRITES: writes}
        if self.postgres and not writes:
            options["isolation_level"] = "REPEATABLE READ"  # one moment, as SQLite reads anyway
        try:
            with (
                self._engine.connect().execution_options(**options) as connection,
                connection.begin(),
            ):
                yield connection
        except PennyreelError:
            raise
        except (DatabaseError, InterfaceError, PoolTimeout) as problem:
            if isinstance(problem, _OURS):
                raise
            raise _unusable(self.place, _reason(problem)) from None

    def _use_wal(self, path: Path) -> None:
        """Let readers read while one writes. It is a mark in the file, made once.

        SQLite does not wait for others when it makes it, so a file lock does.
        """
        with self._raw() as connection:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
                return
            with FileLock(f"{path}.lock", timeout=BUSY_S, mode=0o600):
                connection.execute("PRAGMA journal_mode = WAL")

    @contextmanager
    def _raw(self) -> Iterator[Any]:
        """Yield the driver's own connection: this cannot be done in a transaction."""
        try:
            with self._engine.connect() as connection:
                yield connection.connection.dbapi_connection
        except (OSError, self._engine.dialect.loaded_dbapi.Error, DatabaseError) as problem:
            raise _unusable(self.place, _reason(problem)) from None


def _sqlite(url: URL) -> Engine:
    # Threads beyond the pool open connections of their own: SQLite makes them take turns anyway.
    engine = create_engine(
        url,
        hide_parameters=True,
        max_overflow=-1,
        connect_args={"timeout": BUSY_S},
    )

    def connected(connection: Any, _: object) -> None:
        connection.isolation_level = None  # else the driver begins and commits as it likes
        connection.execute("PRAGMA foreign_keys = ON")
        # An intent has to be on the disk before its job is sent, whatever becomes of the power.
        connection.execute("PRAGMA synchronous = FULL")

    def begun(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)
    return engine


def _postgres(url: URL) -> Engine:
    return create_engine(
        url,
        hide_parameters=True,
        pool_pre_ping=True,
        pool_timeout=BUSY_S,
        # Statements are not prepared: poolers between us and Postgres may not know them.
        connect_args={"connect_timeout": 10, "prepare_threshold": None},
    )


def _open_postgres(url: URL) -> Database:
    place = (
        f"postgresql://{url.host or ''}{f':{url.port}' if url.port else ''}/{url.database or ''}"
    )
    try:
        return Database(url, place)
    except ImportError:
        raise error(
            Code.NOT_CONFIGURED,
            f"the ledger is at {place}, and the driver for Postgres is not installed",
            hint="Run: pip install 'pennyreel[postgres]'",
        ) from None


def _reason(problem: Exception) -> str:
    """Say what is wrong. A Postgres driver's own words may quote its URL; SQLite's do not."""
    cause = getattr(problem, "orig", None) or problem
    state = getattr(cause, "sqlstate", None)
    if type(cause).__module__.startswith("sqlite3"):
        return str(cause)
    return f"{type(cause).__name__}{f', SQLSTATE {state}' if state else ''}"


def _unusable(place: str, reason: str) -> PennyreelError:
    return error(Code.LEDGER_UNUSABLE, f"the ledger at {place} cannot be used: {reason}")
