"""The hot path: a purchase from the socket to the ledger in Redis. It never reaches Postgres."""
