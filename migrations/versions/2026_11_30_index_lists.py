"""Index what admins list, so that a page costs the same however many rows there are.

The indexes are built while everybody goes on writing. If that is broken off, the next run begins it anew.
"""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_30_index_lists"
down_revision = "2026_11_30_follow_payments"

STATEMENT_TIMEOUT_MS = 60_000
LOCK_TIMEOUT_MS = 4_000
ORDERS_PER_BATCH = 10_000
# An order's id begins with its sale's, and with zeros if it has none.
FIRST_OF_SALES = "00000001-0000-0000-0000-000000000000"
OF_SALES = "sale_id IS NOT NULL"
ORDINARY = "sale_id IS NULL"

# Let the lines of the next ordinary orders, in the order of their ids, know when they were reserved.
FILL = """
    WITH next AS MATERIALIZED (
        SELECT id, reserved_at FROM orders
        WHERE id > CAST(:after AS uuid) AND id < CAST(:first_of_sales AS uuid) ORDER BY id LIMIT :count
    ), filled AS (
        UPDATE order_lines SET reserved_at = next.reserved_at FROM next
        WHERE order_lines.order_id = next.id AND order_lines.reserved_at IS DISTINCT FROM next.reserved_at
    )
    SELECT max(CAST(id AS text)) FROM next
"""


def _indexes() -> list[tuple[str, str, str, str | None]]:
    return [
        ("ix_orders_sale", "orders", "sale_id, status, reserved_at, id", OF_SALES),
        ("ix_orders_of_sales", "orders", "status, reserved_at, id", f"{OF_SALES} AND status <> 'reserved'"),
        ("ix_orders_ordinary", "orders", "status, reserved_at, id", ORDINARY),
        ("ix_orders_replacements", "orders", "reserved_at, id", "replaces IS NOT NULL"),
        (
            "ix_order_lines_ordinary",
            "order_lines",
            "product_id, reserved_at, order_id",
            f"order_id < '{FIRST_OF_SALES}'::uuid",
        ),
        ("ix_payments_status", "payments", "status, created_at, order_id", None),
        ("ix_payments_currency", "payments", "currency, status, created_at, order_id", None),
        (
            "ix_payments_unsettled_newest",
            "payments",
            "created_at, order_id",
            "captured_at IS NOT NULL AND settled_at IS NULL",
        ),
        ("ix_provider_events_mismatches", "provider_events", "intent_id", "outcome = 'mismatch'"),
        ("ix_users_free", "users", "role, created_at, id", "blocked_at IS NULL"),
        ("ix_users_blocked", "users", "role, created_at, id", "blocked_at IS NOT NULL"),
        ("ix_users_address", "users", 'email COLLATE "C"', None),
        ("ix_admin_events_newest", "admin_events", "created_at, id", None),
        ("ix_admin_events_action", "admin_events", "action, created_at, id", None),
        ("ix_admin_events_actor", "admin_events", "actor_id, created_at, id", None),
        ("ix_admin_events_actor_action", "admin_events", "actor_id, action, created_at, id", None),
        ("ix_admin_events_kind", "admin_events", "subject, created_at, id", None),
        ("ix_admin_events_subject_newest", "admin_events", "subject, subject_id, created_at, id", None),
    ]


def upgrade() -> None:
    """Apply. The previous release writes lines without the new column, whose default is when that is."""
    op.add_column("order_lines", sa.Column("reserved_at", sa.DateTime(timezone=True), nullable=True))
    # Only now, so that it holds for new rows alone: the others are filled below.
    op.alter_column("order_lines", "reserved_at", server_default=sa.text("now()"))
    with op.get_context().autocommit_block():
        _without_timeouts()
        _fill_lines()
        for name, table, columns, where in _indexes():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            only = f" WHERE {where}" if where else ""
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {table} ({columns}){only}")
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_admin_events_subject")
        _with_timeouts()


def _fill_lines() -> None:
    after: str | None = "00000000-0000-0000-0000-000000000000"
    while after is not None:
        values = {"after": after, "first_of_sales": FIRST_OF_SALES, "count": ORDERS_PER_BATCH}
        after = op.get_bind().execute(sa.text(FILL), values).scalar_one()


def downgrade() -> None:
    """Undo."""
    with op.get_context().autocommit_block():
        _without_timeouts()
        op.execute(
            "CREATE INDEX CONCURRENTLY IF NOT EXISTS ix_admin_events_subject ON admin_events (subject, subject_id)"
        )
        for name, *_ in _indexes():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        _with_timeouts()
    op.drop_column("order_lines", "reserved_at")


def _without_timeouts() -> None:
    """Nobody waits for a lock that this holds: it may take what it takes, and wait for whom it must."""
    op.execute("SET statement_timeout = 0")
    op.execute("SET lock_timeout = 0")


def _with_timeouts() -> None:
    op.execute(f"SET statement_timeout = {STATEMENT_TIMEOUT_MS}")
    op.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
