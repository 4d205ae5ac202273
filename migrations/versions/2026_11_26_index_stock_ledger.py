"""Find the release of an order, and the moments at which a sale ran out, without reading its whole ledger.

Both indexes have few of the rows, so they cost a batch of purchases nothing. While they are built the persister waits.
"""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_26_index_stock_ledger"
down_revision = "2026_11_26_create_audits"


def upgrade() -> None:
    """Apply."""
    op.create_index(
        "ix_stock_ledger_released", "stock_ledger", ["order_id"], postgresql_where=sa.text("kind = 'released'")
    )
    op.create_index(
        "ix_stock_ledger_ran_out",
        "stock_ledger",
        ["sale_id", "epoch", "seq"],
        postgresql_where=sa.text("balance = 0 AND delta < 0"),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_index("ix_stock_ledger_ran_out", table_name="stock_ledger")
    op.drop_index("ix_stock_ledger_released", table_name="stock_ledger")
