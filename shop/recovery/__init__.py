"""Recovery after a loss in Redis: the sale goes on by itself, on a ledger that is built from what Postgres knows."""
