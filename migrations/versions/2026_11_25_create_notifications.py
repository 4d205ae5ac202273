"""Create webhooks and the outbox of notifications, and let readers follow what happened in the order of commits."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from shop.database import Xid8

revision = "2026_11_25_create_notifications"
down_revision = "2026_11_25_create_idempotency"

PENDING = "delivered_at IS NULL AND dead_at IS NULL"


def upgrade() -> None:
    """Apply. Nothing of the time before is told: its rows get no `tx`, and its ledgers count as read.

    The two indexes are empty, but making them reads their tables once, while writers wait.
    """
    for table in ("order_events", "users"):
        op.add_column(table, sa.Column("tx", Xid8(), nullable=True))
        op.create_index(f"ix_{table}_tx", table, ["tx", "id"], postgresql_where=sa.text("tx IS NOT NULL"))
    # Only now, so that it holds for new rows alone. The release before writes its events with it as well.
    op.alter_column("order_events", "tx", server_default=sa.text("pg_current_xact_id()"))
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("url", sa.String(length=2000), nullable=False),
        sa.Column("description", sa.String(length=200), nullable=False),
        sa.Column("events", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("secret", sa.String(length=64), nullable=False),
        sa.Column("previous_secret", sa.String(length=64), nullable=True),
        sa.Column("previous_secret_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("disabled_reason", sa.String(length=16), nullable=True),
        sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("(disabled_at IS NULL) = (disabled_reason IS NULL)", name=op.f("ck_webhooks_disabled")),
        sa.CheckConstraint(
            "(previous_secret IS NULL) = (previous_secret_until IS NULL)", name=op.f("ck_webhooks_previous_secret")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_table(
        "notifications",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=True),
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notifications")),
    )
    op.create_index("ix_notifications_created_at", "notifications", ["created_at"])
    op.create_table(
        "deliveries",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("notification_id", sa.Uuid(), nullable=False),
        sa.Column("sink", sa.String(length=16), nullable=False),
        sa.Column("webhook_id", sa.Integer(), nullable=True),
        sa.Column("tries", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("next_try_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("give_up_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("dead_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", sa.String(length=200), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("sink IN ('log', 'mail', 'webhook')", name=op.f("ck_deliveries_sink")),
        sa.CheckConstraint("(sink = 'webhook') = (webhook_id IS NOT NULL)", name=op.f("ck_deliveries_webhook")),
        sa.CheckConstraint("delivered_at IS NULL OR dead_at IS NULL", name=op.f("ck_deliveries_one_end")),
        sa.ForeignKeyConstraint(
            ["notification_id"],
            ["notifications.id"],
            name=op.f("fk_deliveries_notification_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["webhook_id"], ["webhooks.id"], name=op.f("fk_deliveries_webhook_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
    )
    op.create_index("ix_deliveries_notification_id", "deliveries", ["notification_id"])
    op.create_index(
        "ix_deliveries_due", "deliveries", ["sink", "webhook_id", "next_try_at"], postgresql_where=sa.text(PENDING)
    )
    op.create_index("ix_deliveries_give_up", "deliveries", ["give_up_at"], postgresql_where=sa.text(PENDING))
    op.create_index("ix_deliveries_dead", "deliveries", ["id"], postgresql_where=sa.text("dead_at IS NOT NULL"))
    op.create_table(
        "collector_position",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("event_tx", Xid8(), server_default=sa.text("'0'"), nullable=False),
        sa.Column("event_id", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("user_tx", Xid8(), server_default=sa.text("'0'"), nullable=False),
        sa.Column("user_id", sa.String(length=64), server_default="", nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "expiring_id",
            sa.Uuid(),
            server_default=sa.text("'00000000-0000-0000-0000-000000000000'"),
            nullable=False,
        ),
        sa.CheckConstraint("id = 0", name=op.f("ck_collector_position_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_collector_position")),
    )
    op.create_table(
        "collector_sales",
        sa.Column("sale_id", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["sale_id"], ["sales.id"], name=op.f("fk_collector_sales_sale_id")),
        sa.PrimaryKeyConstraint("sale_id", name=op.f("pk_collector_sales")),
    )
    op.execute("INSERT INTO collector_sales (sale_id, epoch, seq) SELECT id, epoch, watermark FROM sales")


def downgrade() -> None:
    """Undo. What is not delivered yet is lost."""
    for table in ("collector_sales", "collector_position", "deliveries", "notifications", "webhooks"):
        op.drop_table(table)
    for table in ("users", "order_events"):
        op.drop_index(f"ix_{table}_tx", table_name=table)
        op.drop_column(table, "tx")
