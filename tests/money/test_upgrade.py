"""A ledger of a former version becomes this one's by itself, once, with its money intact."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from money.children import together
from money.support import Clock, Place, reserve
from pennyreel.errors import SetupNeeded
from pennyreel.money import migrations, tables, upgrade
from pennyreel.money.caps import Scope
from pennyreel.money.database import Database
from pennyreel.money.ledger import Ledger

DATA = Path(__file__).with_name("data")


@pytest.fixture
def old(bare: Place) -> Place:
    """A ledger of schema 0001, with money in it."""
    name = "postgres" if bare.postgres else "sqlite"
    script(bare, f"ledger_0001_{name}.sql")
    script(bare, "ledger_0001_rows.sql")
    return bare


def script(place: Place, name: str) -> None:
    text = (DATA / name).read_text("utf-8")
    with place.connection() as connection:
        raw: Any = connection.connection.dbapi_connection
        (raw.execute if place.postgres else raw.executescript)(text)


def all_rows(place: Place) -> dict[str, list[tuple[Any, ...]]]:
    names = ("jobs", "decisions", "entries", "budgets", "breakers")
    return {name: place.rows(f"SELECT * FROM {name} ORDER BY 1") for name in names}  # noqa: S608


def version(place: Place) -> str:
    return str(place.rows("SELECT version_num FROM alembic_version")[0][0])


def test_an_older_ledger_is_upgraded_with_its_money_intact(old: Place) -> None:
    before = all_rows(old)
    with old.open(Clock()) as ledger:
        assert version(old) == tables.HEAD
        assert all_rows(old) == before
        held = next(b for b in ledger.budgets() if b.cap.scope == Scope("all"))
        assert (held.held.spent, held.held.reserved, held.left) == (618_000, 40_000, 42_000)
        assert [(s.group, s.spent, s.reserved) for s in ledger.spending("backend")] == [
            ("gemini", 600_000, 0),
            ("runpod", 18_000, 40_000),
        ]
        assert [a.attempt_id for a in ledger.claim_open(60)] == ["a2", "a3"]
        assert ledger.breaker("gemini") == ({"state": "open", "until": 1795500800.5}, 3)
        assert ledger.decisions("job-1")[0]["chosen"] == "runpod"
        ledger.settle("a2", 39_000)
        assert reserve(ledger, "new", 43_000).reserved == 43_000


def test_the_append_only_guard_survives_the_upgrade(old: Place) -> None:
    old.open().close()
    for statement in ("UPDATE entries SET spent = 0", "DELETE FROM entries"):
        with pytest.raises(sa.exc.DBAPIError, match="append-only"):
            old.run(statement)


def test_many_processes_that_open_an_old_ledger_upgrade_it_once(old: Place, tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text(old.url)
    told = together("opener.py", [(str(secret),)] * 6)
    assert all(one == told[0] for one in told)
    assert told[0][1][0]["left_microusd"] == 42_000
    assert version(old) == tables.HEAD


def test_many_processes_that_open_no_ledger_make_one(bare: Place, tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text(bare.url)
    assert len(together("opener.py", [(str(secret),)] * 6)) == 6
    assert version(bare) == tables.HEAD


def test_an_upgrade_that_fails_leaves_the_old_ledger_as_it_was(
    old: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    old.run("CREATE TABLE learned (id INTEGER)")  # the last table that the upgrade makes
    before = all_rows(old)
    with pytest.raises((SetupNeeded, sa.exc.DBAPIError)):
        old.open()
    assert version(old) == "0001"
    assert all_rows(old) == before
    old.run("DROP TABLE learned")
    old.open().close()
    assert version(old) == tables.HEAD


def test_a_ledger_of_a_newer_version_is_refused_and_not_touched(place: Place) -> None:
    place.open().close()
    place.run("UPDATE alembic_version SET version_num = '0099'")
    with pytest.raises(SetupNeeded, match=r"newer version of pennyreel.*0099") as refused:
        place.open()
    assert refused.value.code == "ledger_unusable"
    assert "Update pennyreel" in refused.value.hint
    assert not refused.value.retryable
    assert version(place) == "0099"


def test_a_database_of_something_else_is_refused(bare: Place) -> None:
    bare.run("CREATE TABLE jobs (id INTEGER)")
    with pytest.raises(SetupNeeded, match="tables of something else: jobs"):
        bare.open()


def test_the_migrations_make_the_tables_that_the_code_uses(place: Place) -> None:
    database = place.database()
    upgrade.upgrade(database)
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.metadata) == []
    database.close()


def test_the_newest_migration_is_the_one_that_the_code_expects() -> None:
    folder = Path(str(migrations.__file__)).parent
    scripts = ScriptDirectory(str(folder))
    assert scripts.get_current_head() == tables.HEAD
    assert [s.revision for s in scripts.walk_revisions()] == ["0002", "0001"]


def test_what_is_no_database_is_refused_with_the_next_step(tmp_path: Path) -> None:
    file = tmp_path / "ledger.db"
    file.write_bytes(b"this is a text, and not a database" * 100)
    with pytest.raises(SetupNeeded, match=r"ledger\.db cannot be used: file is not a database"):
        Place(f"sqlite:///{file}").open()
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupNeeded, match="cannot be used"):
        Place(f"sqlite:///{tmp_path}/file/ledger.db").open()


def test_only_its_user_may_read_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a 100 % odd?name#" / "ledger.db"
    with Ledger(Database.of_file(file)) as ledger:
        reserve(ledger, "a", 1)
        made = [p for p in file.parent.iterdir() if p.name.startswith("ledger.db")]
        assert {stat.S_IMODE(p.stat().st_mode) & 0o077 for p in made} == {0}
        assert ledger.place == str(file)
