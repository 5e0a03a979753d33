"""Brings a ledger to this version's schema: by itself, one process at a time, wholly or not at all.

Alembic's steps run inside one write transaction of ours. Who comes second finds it done.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from pennyreel.errors import Code, PennyreelError, error
from pennyreel.money.database import Database
from pennyreel.money.tables import HEAD, metadata

if TYPE_CHECKING:
    from alembic.config import Config

_one = threading.Lock()
"""Alembic's `op` is one for the whole process."""


def upgrade(database: Database) -> None:
    """Make the tables, or change an older version's; does nothing where they are right.

    Raises:
        SetupNeeded: `ledger_unusable`: a newer version wrote it, or it is something else's.

    """
    with database.read() as connection:
        if version(connection) == HEAD:
            return
    with _one, database.write() as connection:
        found = version(connection)
        if found != HEAD:
            _steps(connection, found, database.place)


def version(connection: Connection) -> str | None:
    """Return the schema's version, or None where there is no ledger yet."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)


def _steps(connection: Connection, found: str | None, place: str) -> None:
    # Imported here: it takes longer than all else that a ledger of this version needs.
    from alembic import command  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = _config(connection)
    known = {step.revision for step in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise _refused(
            f"the ledger at {place} is of a newer version of pennyreel (its schema is {found}, "
            f"this one knows {HEAD})",
            "Update pennyreel, or name another ledger in PENNYREEL_LEDGER_URL.",
        )
    others = set(metadata.tables) & set(inspect(connection).get_table_names())
    if found is None and others:
        raise _refused(
            f"the database at {place} holds tables of something else: {', '.join(sorted(others))}",
            "Give the ledger a database of its own.",
        )
    command.upgrade(config, "head")


def _config(connection: Connection) -> Config:
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    folder = str(Path(__file__).with_name("migrations"))
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _refused(message: str, hint: str) -> PennyreelError:
    return error(Code.LEDGER_UNUSABLE, message, hint=hint, retryable=False)
