"""Look once whether the orders obey the check that was added, in a transaction that shoppers do not notice."""

from alembic import op

revision = "2026_11_23_validate_orders"
down_revision = "2026_11_23_create_order_salts"


def upgrade() -> None:
    """Apply. Reading the whole table is only harmless without the lock under which the check was added."""
    op.execute("ALTER TABLE orders VALIDATE CONSTRAINT ck_orders_ordinary_released")


def downgrade() -> None:
    """Undo."""
    op.execute(
        "ALTER TABLE orders DROP CONSTRAINT ck_orders_ordinary_released,"
        " ADD CONSTRAINT ck_orders_ordinary_released"
        " CHECK (sale_id IS NOT NULL OR (closed_at IS NULL) = (released_at IS NULL)) NOT VALID"
    )
