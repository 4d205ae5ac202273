"""The life of a sale: Postgres holds what it should be, the controller makes the ledger follow."""
