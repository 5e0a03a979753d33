"""The ledger's tables, as the newest migration leaves them. A test compares the two.

Times are UTC in milliseconds since 1970, money is micro-dollars. Nothing here holds a prompt, a
file or a key.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

HEAD = "0002"
"""The migration that these tables are of."""

metadata = MetaData()

_SERIAL = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only where the type is INTEGER."""

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", Text, primary_key=True),
    Column("created_ms", BigInteger, nullable=False),
    Column("request_sha256", Text, nullable=False),
    Column("need", JSON, nullable=False),
    Column("project", Text),
    Column("user", Text),
    Column("template", Text),
    Column("backends", JSON, nullable=False),
    Column("policy", Text, nullable=False),
    Column("outcome", Text),  # NULL: open; else done, or an error's code
    Column("ended_ms", BigInteger),
    Column("summary", JSON),
    Index("jobs_created", "created_ms"),
)

decisions = Table(
    "decisions",
    metadata,
    Column("id", _SERIAL, primary_key=True, autoincrement=True),
    Column("job_id", Text, ForeignKey("jobs.job_id"), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("record", JSON, nullable=False),
    Index("decisions_job", "job_id"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("attempt_id", Text, primary_key=True),
    Column("job_id", Text, ForeignKey("jobs.job_id"), nullable=False),
    Column("backend", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("handle", Text),
    Column("state", Text, nullable=False),
    Column("code", Text),
    Column("intended_ms", BigInteger, nullable=False),
    Column("sent_ms", BigInteger),
    Column("accepted_ms", BigInteger),
    Column("running_ms", BigInteger),
    Column("unknown_ms", BigInteger),
    Column("ended_ms", BigInteger),
    Column("claimed_by", Text),
    Column("claimed_until_ms", BigInteger),
    Index("attempts_job", "job_id"),
    Index("attempts_state", "state"),
)

entries = Table(
    "entries",
    metadata,
    Column("id", _SERIAL, primary_key=True, autoincrement=True),
    Column("attempt_id", Text, ForeignKey("attempts.attempt_id"), nullable=False),
    Column("kind", Text, nullable=False),  # reserve, settle, release, adjust
    Column("reference", Text, nullable=False),  # tells adjustments apart; else empty
    Column("reserved", BigInteger, nullable=False),  # what this entry adds to what is reserved
    Column("spent", BigInteger, nullable=False),  # and to what is spent
    Column("at_ms", BigInteger, nullable=False),
    Column("booked_ms", BigInteger, nullable=False),  # of its reservation: the day it counts in
    Column("catalogue", Text, nullable=False),
    Column("certainty", Text, nullable=False),  # known, estimated, unknown
    Column("backend", Text, nullable=False),
    Column("project", Text),
    Column("user", Text),
    Column("template", Text),
    UniqueConstraint("attempt_id", "kind", "reference", name="entries_once"),
    # Each holds all that a balance needs, so that the rows themselves are not read.
    Index("entries_all", "booked_ms", "reserved", "spent"),
    Index("entries_backend", "backend", "booked_ms", "reserved", "spent"),
    Index("entries_project", "project", "booked_ms", "reserved", "spent"),
    Index("entries_user", "user", "booked_ms", "reserved", "spent"),
)

budgets = Table(
    "budgets",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("period", Text, primary_key=True),
    Column("cap", BigInteger, nullable=False),
    Column("set_ms", BigInteger, nullable=False),
)

breakers = Table(
    "breakers",
    metadata,
    Column("backend", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("state", JSON, nullable=False),
)

alerts = Table(
    "alerts",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("period", Text, primary_key=True),
    Column("start_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("cap", BigInteger, primary_key=True, autoincrement=False),
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("spent", BigInteger, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("until_ms", BigInteger, nullable=False),
)

probes = Table(
    "probes",
    metadata,
    Column("name", Text, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("answer", JSON, nullable=False),
)

learned = Table(
    "learned",
    metadata,
    Column("id", _SERIAL, primary_key=True, autoincrement=True),
    Column("profile", Text, nullable=False),
    Column("gpu", Text, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Index("learned_of", "profile", "gpu", "id"),
)
