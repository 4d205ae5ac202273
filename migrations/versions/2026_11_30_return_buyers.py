"""Remember where the provider sends a buyer after the payment, so that every try to make its intent says the same.

The previous release leaves it empty.
"""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_30_return_buyers"
down_revision = "2026_11_30_keep_horizon"


def upgrade() -> None:
    """Apply."""
    op.add_column("payments", sa.Column("return_url", sa.String(length=2_000), nullable=True))


def downgrade() -> None:
    """Undo."""
    op.drop_column("payments", "return_url")
