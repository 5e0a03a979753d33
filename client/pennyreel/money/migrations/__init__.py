"""The ledger's schema, step by step, for alembic. `money/upgrade.py` runs it."""
