"""Create the record of what became of each order."""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_22_create_order_events"
down_revision = "2026_11_21_create_tables"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "order_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("moved_by", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_order_events_order_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_order_events")),
    )
    op.create_index("ix_order_events_order_id", "order_events", ["order_id", "id"], unique=False)


def downgrade() -> None:
    """Undo."""
    op.drop_index("ix_order_events_order_id", table_name="order_events")
    op.drop_table("order_events")
