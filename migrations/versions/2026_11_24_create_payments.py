"""Create payments, refunds and the record of what the provider told; an order may replace another."""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_24_create_payments"
down_revision = "2026_11_23_validate_orders"


def upgrade() -> None:
    """Apply."""
    op.add_column("orders", sa.Column("replaces", sa.Uuid(), nullable=True))
    op.create_table(
        "payments",
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("intent_id", sa.String(length=64), nullable=True),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("pay_url", sa.String(length=2000), nullable=True),
        sa.Column("captured_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("paid_order_id", sa.Uuid(), nullable=True),
        sa.Column("ask_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("tries", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("status IN ('wanted', 'open', 'cancelled', 'captured')", name=op.f("ck_payments_status")),
        sa.CheckConstraint("amount_minor >= 0", name=op.f("ck_payments_amount_not_negative")),
        sa.CheckConstraint("(status = 'captured') = (captured_at IS NOT NULL)", name=op.f("ck_payments_captured")),
        sa.CheckConstraint(
            "paid_order_id IS NULL OR captured_at IS NOT NULL", name=op.f("ck_payments_paid_is_captured")
        ),
        sa.CheckConstraint(
            "settled_at IS NULL OR captured_at IS NOT NULL", name=op.f("ck_payments_settled_is_captured")
        ),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_payments_order_id")),
        sa.ForeignKeyConstraint(["paid_order_id"], ["orders.id"], name=op.f("fk_payments_paid_order_id")),
        sa.PrimaryKeyConstraint("order_id", name=op.f("pk_payments")),
        sa.UniqueConstraint("intent_id", name=op.f("uq_payments_intent_id")),
        sa.UniqueConstraint("paid_order_id", name=op.f("uq_payments_paid_order_id")),
    )
    op.create_index(
        "ix_payments_unsettled",
        "payments",
        ["captured_at"],
        postgresql_where=sa.text("captured_at IS NOT NULL AND settled_at IS NULL"),
    )
    op.create_index(
        "ix_payments_unfinished", "payments", ["ask_at"], postgresql_where=sa.text("status IN ('wanted', 'open')")
    )
    op.create_table(
        "refunds",
        sa.Column("payment_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ask_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("tries", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("status IN ('pending', 'done')", name=op.f("ck_refunds_status")),
        sa.CheckConstraint("amount_minor >= 0", name=op.f("ck_refunds_amount_not_negative")),
        sa.ForeignKeyConstraint(["payment_id"], ["payments.order_id"], name=op.f("fk_refunds_payment_id")),
        sa.PrimaryKeyConstraint("payment_id", name=op.f("pk_refunds")),
    )
    op.create_index("ix_refunds_pending", "refunds", ["ask_at"], postgresql_where=sa.text("status = 'pending'"))
    op.create_table(
        "provider_events",
        sa.Column("id", sa.String(length=128), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("intent_id", sa.String(length=64), nullable=False),
        sa.Column("outcome", sa.String(length=32), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_provider_events")),
    )
    op.create_index("ix_provider_events_intent_id", "provider_events", ["intent_id"])
    op.create_table(
        "provider_cursors",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("after", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id = 0", name=op.f("ck_provider_cursors_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_provider_cursors")),
    )
    op.execute("INSERT INTO provider_cursors (id, after) VALUES (0, 0)")


def downgrade() -> None:
    """Undo."""
    op.drop_table("provider_cursors")
    op.drop_table("provider_events")
    op.drop_table("refunds")
    op.drop_table("payments")
    op.drop_column("orders", "replaces")
