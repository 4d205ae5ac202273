"""Drop the foreign key from lines to orders: a quarter of what Postgres does when it records a batch.

Both are written in one transaction; the full audit counts lines without an order, and orders without lines. To drop the
key waits for a moment without a batch, at most as long as any migration waits for a lock.
"""

from alembic import op

revision = "2026_12_01_drop_line_order_key"
down_revision = "2026_11_30_widen_stock"

KEY, TABLE = "fk_order_lines_order_id", "order_lines"
STATEMENT_TIMEOUT_MS = 60_000


def upgrade() -> None:
    """Apply."""
    op.drop_constraint(KEY, TABLE, type_="foreignkey")


def downgrade() -> None:
    """Undo. What is there is checked beside purchases; a line without an order is found by it."""
    op.execute(f"ALTER TABLE {TABLE} ADD CONSTRAINT {KEY} FOREIGN KEY (order_id) REFERENCES orders (id) NOT VALID")
    with op.get_context().autocommit_block():
        op.execute("SET statement_timeout = 0")
        op.execute(f"ALTER TABLE {TABLE} VALIDATE CONSTRAINT {KEY}")
        op.execute(f"SET statement_timeout = {STATEMENT_TIMEOUT_MS}")
