"""Keep the windows of sales within what the shop can say: from 2000 to 9000.

Times beyond, such as `infinity`, could not be read back; those that are there become the nearest that can. Both tables
are small: a row for each sale, and one for each change that an admin made, so they are checked under the lock.
"""

from alembic import op

revision = "2026_11_30_keep_horizon"
down_revision = "2026_11_30_index_open_orders"

FIRST, LAST = "TIMESTAMPTZ '2000-01-01 00:00:00+00:00'", "TIMESTAMPTZ '9000-01-01 00:00:00+00:00'"
TABLES = ("sales", "sale_changes")


def upgrade() -> None:
    """Apply. The previous release answers 500 to a time beyond, as it did a moment later before."""
    for table in TABLES:
        op.execute(
            f"UPDATE {table} SET starts_at = greatest({FIRST}, least(starts_at, {LAST} - INTERVAL '1 day')),"  # noqa: S608
            f" ends_at = least({LAST}, greatest(ends_at, {FIRST} + INTERVAL '1 day'))"
            f" WHERE starts_at < {FIRST} OR ends_at > {LAST}"
        )
        op.create_check_constraint(
            op.f(f"ck_{table}_horizon"),
            table,
            "starts_at >= '2000-01-01 00:00:00+00:00' AND ends_at <= '9000-01-01 00:00:00+00:00'",
        )


def downgrade() -> None:
    """Undo."""
    for table in TABLES:
        op.drop_constraint(op.f(f"ck_{table}_horizon"), table, type_="check")
