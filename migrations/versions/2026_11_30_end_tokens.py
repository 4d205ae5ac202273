"""Let an account's tokens end before they run out: they carry a generation, and only the newest one is good."""

import sqlalchemy as sa
from alembic import op

from shop.database import Xid8

revision = "2026_11_30_end_tokens"
down_revision = "2026_11_26_index_stock_ledger"


def upgrade() -> None:
    """Apply. The release before neither knows nor changes a generation; tokens that it issues are of the first.

    Neither column rewrites the table. Their indexes are empty, but making them reads it once, while sign-ups wait.
    """
    op.add_column("users", sa.Column("token_generation", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("users", sa.Column("tokens_ended_tx", Xid8(), nullable=True))
    op.create_index(
        "ix_users_token_generation", "users", ["token_generation"], postgresql_where=sa.text("token_generation > 0")
    )
    op.create_index(
        "ix_users_tokens_ended_tx",
        "users",
        ["tokens_ended_tx"],
        postgresql_where=sa.text("tokens_ended_tx IS NOT NULL"),
    )


def downgrade() -> None:
    """Undo. Tokens that were ended are good again until they run out."""
    op.drop_index("ix_users_tokens_ended_tx", table_name="users")
    op.drop_index("ix_users_token_generation", table_name="users")
    op.drop_column("users", "tokens_ended_tx")
    op.drop_column("users", "token_generation")
