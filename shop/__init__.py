"""A flash-sale backend: Redis decides who gets a unit, Postgres decides who keeps it, one ledger joins the two."""
