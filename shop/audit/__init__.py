"""The proof across all stages: the invariants of a sale, computed from Postgres and Redis at one watermark."""
