"""Jobs, decisions, attempts, money that is only ever added to, budgets, breakers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the first ledger."""
    _jobs()
    _attempts()
    _entries()
    _rest()
    if op.get_bind().dialect.name == "postgresql":
        _guard_postgres()
    else:
        _guard_sqlite()


def _jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("job_id", sa.Text, primary_key=True),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("request_sha256", sa.Text, nullable=False),
        sa.Column("need", sa.JSON, nullable=False),
        sa.Column("project", sa.Text),
        sa.Column("user", sa.Text),
        sa.Column("template", sa.Text),
        sa.Column("backends", sa.JSON, nullable=False),
        sa.Column("policy", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text),
        sa.Column("ended_ms", sa.BigInteger),
        sa.Column("summary", sa.JSON),
    )
    op.create_index("jobs_created", "jobs", ["created_ms"])
    op.create_table(
        "decisions",
        sa.Column("id", _SERIAL, primary_key=True, autoincrement=True),
        sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.job_id"), nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("record", sa.JSON, nullable=False),
    )
    op.create_index("decisions_job", "decisions", ["job_id"])


def _attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("attempt_id", sa.Text, primary_key=True),
        sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.job_id"), nullable=False),
        sa.Column("backend", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("handle", sa.Text),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("code", sa.Text),
        sa.Column("intended_ms", sa.BigInteger, nullable=False),
        sa.Column("sent_ms", sa.BigInteger),
        sa.Column("accepted_ms", sa.BigInteger),
        sa.Column("running_ms", sa.BigInteger),
        sa.Column("unknown_ms", sa.BigInteger),
        sa.Column("ended_ms", sa.BigInteger),
    )
    op.create_index("attempts_job", "attempts", ["job_id"])
    op.create_index("attempts_state", "attempts", ["state"])


def _entries() -> None:
    op.create_table(
        "entries",
        sa.Column("id", _SERIAL, primary_key=True, autoincrement=True),
        sa.Column("attempt_id", sa.Text, sa.ForeignKey("attempts.attempt_id"), nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("reference", sa.Text, nullable=False),
        sa.Column("reserved", sa.BigInteger, nullable=False),
        sa.Column("spent", sa.BigInteger, nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("booked_ms", sa.BigInteger, nullable=False),
        sa.Column("catalogue", sa.Text, nullable=False),
        sa.Column("certainty", sa.Text, nullable=False),
        sa.Column("backend", sa.Text, nullable=False),
        sa.Column("project", sa.Text),
        sa.Column("user", sa.Text),
        sa.Column("template", sa.Text),
        sa.UniqueConstraint("attempt_id", "kind", "reference", name="entries_once"),
        sa.CheckConstraint(
            "kind = 'reserve' AND reserved >= 0 AND spent = 0"
            " OR kind = 'settle' AND reserved <= 0 AND spent >= 0"
            " OR kind = 'release' AND reserved <= 0 AND spent = 0"
            " OR kind = 'adjust' AND reserved = 0 AND reference <> ''",
            name="entries_kind",
        ),
        sa.CheckConstraint(
            "certainty IN ('known', 'estimated', 'unknown')", name="entries_certainty"
        ),
    )
    op.create_index("entries_all", "entries", ["booked_ms", "reserved", "spent"])
    for scope in ("backend", "project", "user"):
        op.create_index(f"entries_{scope}", "entries", [scope, "booked_ms", "reserved", "spent"])


def _rest() -> None:
    op.create_table(
        "budgets",
        sa.Column("scope", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("period", sa.Text, primary_key=True),
        sa.Column("cap", sa.BigInteger, nullable=False),
        sa.Column("set_ms", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "breakers",
        sa.Column("backend", sa.Text, primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("state", sa.JSON, nullable=False),
    )


def _guard_sqlite() -> None:
    for action in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER entries_no_{action.lower()} BEFORE {action} ON entries"
            " BEGIN SELECT RAISE(ABORT, 'money entries are append-only'); END"
        )
    # INSERT OR REPLACE deletes the old row without asking its triggers.
    op.execute(
        "CREATE TRIGGER entries_no_replace BEFORE INSERT ON entries WHEN EXISTS ("
        "SELECT 1 FROM entries AS old WHERE old.id = NEW.id OR (old.attempt_id = NEW.attempt_id"
        " AND old.kind = NEW.kind AND old.reference = NEW.reference))"
        " BEGIN SELECT RAISE(ABORT, 'money entries are append-only'); END"
    )


def _guard_postgres() -> None:
    op.execute(
        "CREATE FUNCTION entries_append_only() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'money entries are append-only'; END $$"
    )
    op.execute(
        "CREATE TRIGGER entries_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON entries"
        " FOR EACH STATEMENT EXECUTE FUNCTION entries_append_only()"
    )
