"""Give a product's stock eight bytes, so that what its sales and orders give back always fits in.

The table of products is written anew under the lock: a catalogue of 100,000 takes less than a second. Purchases of a
sale do not touch it; the end of a sale and ordinary orders wait.
"""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_30_widen_stock"
down_revision = "2026_11_30_total_money"


def upgrade() -> None:
    """Apply."""
    op.alter_column("products", "stock", type_=sa.BigInteger(), existing_type=sa.Integer(), existing_nullable=False)


def downgrade() -> None:
    """Undo. It fails while a product has more units than four bytes hold."""
    op.alter_column("products", "stock", type_=sa.Integer(), existing_type=sa.BigInteger(), existing_nullable=False)
