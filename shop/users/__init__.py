"""Accounts, tokens and roles. Users are closed, never deleted."""
