"""Create the tables of the first release."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "2026_11_21_create_tables"
down_revision = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "admin_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("actor_id", sa.String(length=64), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=32), nullable=False),
        sa.Column("subject_id", sa.String(length=64), nullable=False),
        sa.Column("details", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_admin_events")),
    )
    op.create_index("ix_admin_events_subject", "admin_events", ["subject", "subject_id"], unique=False)
    op.create_table(
        "products",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("price_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("stock", sa.Integer(), nullable=False),
        sa.Column("published", sa.Boolean(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("ck_products_currency")),
        sa.CheckConstraint("price_minor >= 0", name=op.f("ck_products_price_not_negative")),
        sa.CheckConstraint("stock >= 0", name=op.f("ck_products_stock_not_negative")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_products")),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("email", sa.String(length=254), nullable=False),
        sa.Column("password_hash", sa.String(length=200), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("blocked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("id ~ '^[A-Za-z0-9_-]{1,64}$'", name=op.f("ck_users_id")),
        sa.CheckConstraint("role IN ('shopper', 'admin')", name=op.f("ck_users_role")),
        sa.CheckConstraint("email = lower(email)", name=op.f("ck_users_email_lower")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("email", name=op.f("uq_users_email")),
    )
    op.create_index(
        "ix_users_blocked_at", "users", ["blocked_at"], unique=False, postgresql_where="blocked_at IS NOT NULL"
    )
    op.create_table(
        "sales",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("product_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("units", sa.Integer(), nullable=False),
        sa.Column("units_taken", sa.Integer(), nullable=False),
        sa.Column("price_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("units_per_user", sa.Integer(), nullable=False),
        sa.Column("orders_per_user", sa.Integer(), nullable=False),
        sa.Column("hold_seconds", sa.Integer(), nullable=False),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("watermark", sa.BigInteger(), nullable=False),
        sa.Column("watermark_balance", sa.Integer(), nullable=False),
        sa.Column("changes", sa.Integer(), nullable=False),
        sa.Column("held_back", sa.Integer(), nullable=False),
        sa.Column("alarm", sa.Text(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("status IN ('draft', 'scheduled', 'ended', 'settled')", name=op.f("ck_sales_status")),
        sa.CheckConstraint("ends_at > starts_at", name=op.f("ck_sales_window")),
        sa.CheckConstraint("held_back >= 0", name=op.f("ck_sales_held_back")),
        sa.CheckConstraint("hold_seconds BETWEEN 1 AND 2592000", name=op.f("ck_sales_hold_seconds")),
        sa.CheckConstraint("id >= 0 AND id < 2147483647", name=op.f("ck_sales_id")),
        sa.CheckConstraint("orders_per_user >= 1", name=op.f("ck_sales_orders_per_user")),
        sa.CheckConstraint("price_minor >= 0", name=op.f("ck_sales_price_not_negative")),
        sa.CheckConstraint("units >= 0", name=op.f("ck_sales_units_not_negative")),
        sa.CheckConstraint("units_per_user >= 1", name=op.f("ck_sales_units_per_user")),
        sa.CheckConstraint("units_taken <= units", name=op.f("ck_sales_no_oversell")),
        sa.CheckConstraint("units_taken >= 0", name=op.f("ck_sales_units_taken_not_negative")),
        sa.CheckConstraint("watermark >= 0 AND watermark_balance >= 0", name=op.f("ck_sales_watermark")),
        sa.ForeignKeyConstraint(["product_id"], ["products.id"], name=op.f("fk_sales_product_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sales")),
    )
    op.create_index(
        "ix_sales_alive", "sales", ["id"], unique=False, postgresql_where="status IN ('scheduled', 'ended')"
    )
    op.create_index(op.f("ix_sales_product_id"), "sales", ["product_id"], unique=False)
    op.create_table(
        "orders",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("sale_id", sa.Integer(), nullable=True),
        sa.Column("epoch", sa.Integer(), nullable=True),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("total_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("reserved_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("released_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(status IN ('cancelled', 'expired')) <= (closed_at IS NOT NULL)", name=op.f("ck_orders_closed")
        ),
        sa.CheckConstraint(
            "status IN ('reserved', 'paid', 'refunded', 'cancelled', 'expired')", name=op.f("ck_orders_status")
        ),
        sa.CheckConstraint("user_id ~ '^[A-Za-z0-9_-]{1,64}$'", name=op.f("ck_orders_user_id")),
        sa.CheckConstraint("quantity >= 1", name=op.f("ck_orders_quantity")),
        sa.CheckConstraint("released_at IS NULL OR closed_at IS NOT NULL", name=op.f("ck_orders_released_is_closed")),
        sa.CheckConstraint("total_minor >= 0", name=op.f("ck_orders_total_not_negative")),
        sa.ForeignKeyConstraint(["sale_id"], ["sales.id"], name=op.f("fk_orders_sale_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_orders")),
    )
    op.create_index("ix_orders_due", "orders", ["expires_at"], unique=False, postgresql_where="status = 'reserved'")
    op.create_index(
        "ix_orders_owed",
        "orders",
        ["closed_at"],
        unique=False,
        postgresql_where="closed_at IS NOT NULL AND released_at IS NULL",
    )
    op.create_index("ix_orders_user", "orders", ["user_id", "reserved_at", "id"], unique=False)
    op.create_table(
        "sale_changes",
        sa.Column("sale_id", sa.Integer(), nullable=False),
        sa.Column("n", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("units_delta", sa.Integer(), nullable=True),
        sa.Column("requested_by", sa.String(length=64), nullable=False),
        sa.Column("outcome", sa.String(length=32), nullable=True),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("(kind = 'units') = (units_delta IS NOT NULL)", name=op.f("ck_sale_changes_units_delta")),
        sa.CheckConstraint(
            "(kind = 'window') = (starts_at IS NOT NULL AND ends_at IS NOT NULL)", name=op.f("ck_sale_changes_window")
        ),
        sa.CheckConstraint(
            "kind IN ('pause', 'resume', 'window', 'units', 'close', 'end', 'settle')",
            name=op.f("ck_sale_changes_kind"),
        ),
        sa.CheckConstraint("(outcome IS NULL) = (closed_at IS NULL)", name=op.f("ck_sale_changes_closed")),
        sa.CheckConstraint("n >= 1", name=op.f("ck_sale_changes_n")),
        sa.ForeignKeyConstraint(["sale_id"], ["sales.id"], name=op.f("fk_sale_changes_sale_id")),
        sa.PrimaryKeyConstraint("sale_id", "n", name=op.f("pk_sale_changes")),
    )
    op.create_index(
        "ix_sale_changes_open", "sale_changes", ["sale_id", "n"], unique=False, postgresql_where="outcome IS NULL"
    )
    op.create_table(
        "sale_epochs",
        sa.Column("sale_id", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("opening_balance", sa.Integer(), nullable=False),
        sa.Column("loaded_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("token", sa.String(length=32), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("(loaded_at IS NULL) = (token IS NULL)", name=op.f("ck_sale_epochs_loaded_by")),
        sa.CheckConstraint("epoch >= 1", name=op.f("ck_sale_epochs_epoch")),
        sa.CheckConstraint("opening_balance >= 0", name=op.f("ck_sale_epochs_opening_balance")),
        sa.ForeignKeyConstraint(["sale_id"], ["sales.id"], name=op.f("fk_sale_epochs_sale_id")),
        sa.PrimaryKeyConstraint("sale_id", "epoch", name=op.f("pk_sale_epochs")),
    )
    op.create_table(
        "order_lines",
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("line", sa.SmallInteger(), nullable=False),
        sa.Column("product_id", sa.BigInteger(), nullable=False),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("price_minor", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("price_minor >= 0", name=op.f("ck_order_lines_price_not_negative")),
        sa.CheckConstraint("quantity >= 1", name=op.f("ck_order_lines_quantity")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_order_lines_order_id")),
        sa.ForeignKeyConstraint(["product_id"], ["products.id"], name=op.f("fk_order_lines_product_id")),
        sa.PrimaryKeyConstraint("order_id", "line", name=op.f("pk_order_lines")),
    )
    op.create_table(
        "stock_ledger",
        sa.Column("sale_id", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=True),
        sa.Column("user_id", sa.String(length=64), nullable=True),
        sa.Column("change_n", sa.Integer(), nullable=True),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("delta", sa.Integer(), nullable=False),
        sa.Column("balance", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("quarantined", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.CheckConstraint("balance >= 0", name=op.f("ck_stock_ledger_balance_not_negative")),
        sa.CheckConstraint("seq >= 1", name=op.f("ck_stock_ledger_seq")),
        sa.ForeignKeyConstraint(
            ["sale_id", "epoch"],
            ["sale_epochs.sale_id", "sale_epochs.epoch"],
            name=op.f("fk_stock_ledger_sale_id_epoch"),
        ),
        sa.PrimaryKeyConstraint("sale_id", "epoch", "seq", name=op.f("pk_stock_ledger")),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("stock_ledger")
    op.drop_table("order_lines")
    op.drop_table("sale_epochs")
    op.drop_index("ix_sale_changes_open", table_name="sale_changes", postgresql_where="outcome IS NULL")
    op.drop_table("sale_changes")
    op.drop_index("ix_orders_user", table_name="orders")
    op.drop_index(
        "ix_orders_owed", table_name="orders", postgresql_where="closed_at IS NOT NULL AND released_at IS NULL"
    )
    op.drop_index("ix_orders_due", table_name="orders", postgresql_where="status = 'reserved'")
    op.drop_table("orders")
    op.drop_index(op.f("ix_sales_product_id"), table_name="sales")
    op.drop_index("ix_sales_alive", table_name="sales", postgresql_where="status IN ('scheduled', 'ended')")
    op.drop_table("sales")
    op.drop_index("ix_users_blocked_at", table_name="users", postgresql_where="blocked_at IS NOT NULL")
    op.drop_table("users")
    op.drop_table("products")
    op.drop_index("ix_admin_events_subject", table_name="admin_events")
    op.drop_table("admin_events")
