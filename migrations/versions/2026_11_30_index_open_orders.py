"""Find a buyer's ordinary orders that are open, however many orders there are.

The index has ordinary orders alone, and those that are reserved: a batch of purchases writes nothing into it. While
it is built, which reads the table once, the persister waits.
"""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_30_index_open_orders"
down_revision = "2026_11_30_index_lists"


def upgrade() -> None:
    """Apply."""
    op.create_index(
        "ix_orders_open",
        "orders",
        ["user_id"],
        postgresql_where=sa.text("sale_id IS NULL AND status = 'reserved'"),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_index("ix_orders_open", table_name="orders")
