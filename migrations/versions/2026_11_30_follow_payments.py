"""Let a payment be followed: its attempts, its declines, the newest that was told of its money, and lost refunds.

Every column has a default, so the previous release goes on. The check of the refunds' status is wider than before, and
holds for each row that the narrower one has let in: it need not be validated under the lock.
"""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_30_follow_payments"
down_revision = "2026_11_30_end_tokens"


def _columns() -> list[sa.Column[object]]:
    return [
        sa.Column("attempt", sa.SmallInteger(), server_default="1", nullable=False),
        sa.Column("start_keys", sa.ARRAY(sa.String(length=128)), server_default="{}", nullable=False),
        sa.Column("declines", sa.Integer(), server_default="0", nullable=False),
        sa.Column("decline_code", sa.String(length=128), nullable=True),
        sa.Column("version", sa.Integer(), server_default="0", nullable=False),
        sa.Column("told_seq", sa.BigInteger(), nullable=True),
        sa.Column("told_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("told_refunded_minor", sa.BigInteger(), nullable=True),
    ]


def upgrade() -> None:
    """Apply."""
    for column in _columns():
        op.add_column("payments", column)
    op.add_column("refunds", sa.Column("told", sa.Boolean(), server_default=sa.false(), nullable=False))
    _set_refund_statuses("pending", "done", "taken_back")
    op.create_index(
        "ix_refunds_taken_back", "refunds", ["payment_id"], postgresql_where=sa.text("status = 'taken_back'")
    )
    op.create_table(
        "superseded_intents",
        sa.Column("intent_id", sa.String(length=64), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["order_id"], ["payments.order_id"], name=op.f("fk_superseded_intents_order_id")),
        sa.PrimaryKeyConstraint("intent_id", name=op.f("pk_superseded_intents")),
    )
    op.create_index("ix_superseded_intents_order_id", "superseded_intents", ["order_id"])


def downgrade() -> None:
    """Undo. A refund that the provider has taken back is done again for the previous release: look at it before."""
    op.drop_table("superseded_intents")
    op.drop_index("ix_refunds_taken_back", table_name="refunds")
    op.execute("UPDATE refunds SET status = 'done' WHERE status = 'taken_back'")
    _set_refund_statuses("pending", "done")
    op.drop_column("refunds", "told")
    for column in _columns():
        op.drop_column("payments", column.name)


def _set_refund_statuses(*statuses: str) -> None:
    op.drop_constraint(op.f("ck_refunds_status"), "refunds", type_="check")
    words = ", ".join(f"'{status}'" for status in statuses)
    op.execute(f"ALTER TABLE refunds ADD CONSTRAINT ck_refunds_status CHECK (status IN ({words})) NOT VALID")
