"""A database that cannot be used says so with the next step, and never with its password."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from sqlalchemy import text

from fakes.ports import dead_port
from money.postgres import Databases
from money.support import Place, job, reserve
from pennyreel.config import Secret, load
from pennyreel.errors import Code, PennyreelError, SetupNeeded, error
from pennyreel.money import database
from pennyreel.money.caps import Scope
from pennyreel.money.database import Database
from pennyreel.money.ledger import Ledger

CANARY = "c4nary-p4ssword"


def test_a_refused_password_is_not_shown(
    postgres: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    there = urlsplit(postgres)
    url = f"postgresql://pennyreel:{CANARY}@{there.hostname}:{there.port}/postgres"
    with pytest.raises(SetupNeeded) as refused:
        Ledger(Database.of_url(Secret(url)))
    told = f"{refused.value!r} {refused.value.info!r} {caplog.text} {capsys.readouterr()}"
    assert CANARY not in told
    assert f"the ledger at postgresql://127.0.0.1:{there.port}/postgres" in told
    assert refused.value.code == "ledger_unusable"


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://u:{CANARY}@h/d",
        f"postgresql://u:{CANARY}@h:{CANARY}/d",
        f"postgresql+pg8000://u:{CANARY}@h/d",
        f"sqlite://u:{CANARY}@/",
        CANARY,
    ],
)
def test_a_url_that_names_no_ledger_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(SetupNeeded) as refused:
        Database.of_url(Secret(url))
    assert CANARY not in f"{refused.value!r} {refused.value.info!r} {refused.value.__context__!r}"
    assert "PENNYREEL_LEDGER_URL like postgresql://" in refused.value.hint


@pytest.mark.parametrize("query", ["", f"?password={CANARY}", f"?sslpassword={CANARY}"])
def test_a_server_that_is_not_there_is_named_without_user_and_password(query: str) -> None:
    port = dead_port()
    with pytest.raises(SetupNeeded) as refused:
        Ledger(Database.of_url(Secret(f"postgresql://u:{CANARY}@127.0.0.1:{port}/d{query}")))
    assert f"postgresql://127.0.0.1:{port}/d cannot be used" in str(refused.value)
    assert CANARY not in f"{refused.value!r} {refused.value.info!r}"


def test_the_settings_hold_the_url_as_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENNYREEL_LEDGER_URL", f"postgresql://u:{CANARY}@127.0.0.1/d")
    monkeypatch.setenv("PENNYREEL_ALERT_WEBHOOK", f"https://hooks.example/{CANARY}")
    assert CANARY not in repr(load())


def test_without_a_url_the_ledger_is_a_file_in_the_home_folder(home: Path) -> None:
    with Ledger.open(load()) as ledger:
        assert ledger.place == str(home / "ledger.db")
        reserve(ledger, "a", 5)
    with Ledger.open(load()) as again:
        assert [a.reserved for a in again.open_attempts()] == [5]


def test_who_waits_too_long_for_a_turn_is_told_that_the_ledger_is_busy(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.2)
    lock = "SELECT set_config('lock_timeout', '200ms', true), pg_advisory_xact_lock(7366956737)"
    monkeypatch.setattr(database, "_TURN", text(lock))
    with place.open() as ledger, place.open() as other:
        with (
            other._db.write(),
            pytest.raises(SetupNeeded, match=r"locked|LockNotAvailable") as busy,
        ):
            ledger.set_budget(Scope("all"), "day", 1)
        assert busy.value.retryable
        assert ledger.budgets() == []
        assert ledger.set_budget(Scope("all"), "day", 1).left == 1


def test_readers_do_not_wait_for_a_writer(place: Place) -> None:
    with place.open() as ledger, place.open() as other:
        reserve(ledger, "a", 5)
        with other._db.write() as connection:
            connection.execute(text("DELETE FROM budgets"))
            assert [a.reserved for a in ledger.open_attempts()] == [5]


def test_an_error_in_the_middle_of_a_write_leaves_nothing(place: Place) -> None:
    with place.open() as ledger:
        with pytest.raises(PennyreelError):
            _fail_in_the_middle(ledger)
        assert ledger.budgets() == []


def _fail_in_the_middle(ledger: Ledger) -> None:
    with ledger._db.write() as connection:
        connection.execute(text("INSERT INTO budgets VALUES ('all', '', 'day', 5, 0)"))
        raise error(Code.INTERNAL, "in the middle")


def test_a_connection_that_the_server_has_cut_is_replaced(servers: Databases) -> None:
    with servers.one(like="ledger") as url, Place(url).open() as ledger:
        ledger.budgets()
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        assert ledger.budgets() == []


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    file = tmp_path / "ledger.db"
    with Ledger(Database.of_file(file)) as ledger:
        with ledger._db.read() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        with ledger._db.write() as connection:  # as a full disk, for this connection
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(SetupNeeded, match="database or disk is full"):
            job(ledger, "x" * 1_000_000)
        assert ledger.jobs() == []


def test_a_second_ledger_in_a_process_does_not_end_the_locks_of_the_first(tmp_path: Path) -> None:
    """POSIX ends all locks that a process has on a file when it closes any descriptor of it."""
    file = tmp_path / "ledger.db"
    code = (
        "import sys; from pathlib import Path; from pennyreel.money.database import Database\n"
        "from pennyreel.money.ledger import Ledger\n"
        "with Ledger(Database.of_file(Path(sys.argv[1]))) as ledger:\n"
        "    ledger.record_job(sys.argv[2], request_sha256='0', need={})"
    )
    path = os.pathsep.join(p for p in sys.path if p)
    with Ledger(Database.of_file(file)) as first:
        job(first, "ours")
        with Ledger(Database.of_file(file)) as second:
            assert second.jobs()
        for name in ("theirs", "theirs too"):
            command = [sys.executable, "-c", code, str(file), name]
            subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path})
            assert name in {j.job_id for j in first.jobs()}
        job(first, "ours too")
    with Ledger(Database.of_file(file)) as again:
        assert len(again.jobs()) == 4


def test_importing_pennyreel_brings_neither_sqlalchemy_nor_alembic() -> None:
    code = (
        "import sys, pennyreel, pennyreel.cli.app\n"
        "print([m for m in ('sqlalchemy', 'alembic', 'psycopg') if m in sys.modules])"
    )
    path = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        check=True,
    )
    assert done.stdout == "[]\n"
