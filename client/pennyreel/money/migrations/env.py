"""Alembic runs this for `money/upgrade.py`, whose connection is in a transaction already."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
