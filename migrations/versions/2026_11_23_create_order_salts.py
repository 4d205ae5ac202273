"""Create the salt of ordinary orders, and let none of them be closed without being released."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "2026_11_23_create_order_salts"
down_revision = "2026_11_22_create_order_events"

SALT_BYTES = 16


def upgrade() -> None:
    """Apply."""
    salts = op.create_table(
        "order_salts",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("id = 0", name=op.f("ck_order_salts_one_row")),
        sa.CheckConstraint("octet_length(salt) = 16", name=op.f("ck_order_salts_salt")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_order_salts")),
    )
    op.bulk_insert(salts, [{"id": 0, "salt": secrets.token_bytes(SALT_BYTES)}])
    # The next migration validates it: that reads the whole table, and this lock keeps everybody out.
    op.execute(
        "ALTER TABLE orders ADD CONSTRAINT ck_orders_ordinary_released"
        " CHECK (sale_id IS NOT NULL OR (closed_at IS NULL) = (released_at IS NULL)) NOT VALID"
    )


def downgrade() -> None:
    """Undo. The salt is lost: a repeat of an ordinary order made before would not find it."""
    op.execute("ALTER TABLE orders DROP CONSTRAINT ck_orders_ordinary_released")
    op.drop_table("order_salts")
