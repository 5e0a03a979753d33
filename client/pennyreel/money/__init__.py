"""Prices, the ledger, budgets. Money is in integer micro-dollars: 1 USD = 1_000_000."""
