"""Requests that carry an `Idempotency-Key`: the first one acts, every other one with the key is told the same."""
