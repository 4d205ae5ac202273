"""Create recoveries, the reservations that are reported to them, and the heartbeats of the API processes."""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_25_create_recoveries"
down_revision = "2026_11_25_create_notifications"

KINDS = "'pause', 'resume', 'window', 'units', 'close', 'end', 'settle'"


def upgrade() -> None:
    """Apply."""
    op.add_column("sales", sa.Column("recovery", sa.Integer(), server_default="0", nullable=False))
    op.add_column("sale_epochs", sa.Column("run_id", sa.String(length=64), nullable=True))
    op.execute(
        "ALTER TABLE sale_changes DROP CONSTRAINT ck_sale_changes_kind,"
        f" ADD CONSTRAINT ck_sale_changes_kind CHECK (kind IN ({KINDS}, 'restore'))"
    )
    op.create_table(
        "recoveries",
        sa.Column("sale_id", sa.Integer(), nullable=False),
        sa.Column("n", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("from_epoch", sa.Integer(), nullable=False),
        sa.Column("to_epoch", sa.Integer(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("renew", sa.Boolean(), nullable=False),
        sa.Column("step", sa.String(length=16), nullable=False),
        sa.Column("step_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("unexplained", sa.BigInteger(), nullable=False),
        sa.Column("leased_by", sa.Uuid(), nullable=True),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "step IN ('fence', 'compare', 'lift', 'load', 'honour', 'open', 'done')", name=op.f("ck_recoveries_step")
        ),
        sa.CheckConstraint("(step = 'done') = (finished_at IS NOT NULL)", name=op.f("ck_recoveries_finished")),
        sa.CheckConstraint("unexplained >= 0", name=op.f("ck_recoveries_unexplained")),
        sa.ForeignKeyConstraint(["sale_id"], ["sales.id"], name=op.f("fk_recoveries_sale_id")),
        sa.PrimaryKeyConstraint("sale_id", "n", name=op.f("pk_recoveries")),
    )
    op.create_index(
        "ix_recoveries_unfinished", "recoveries", ["sale_id"], unique=True, postgresql_where="finished_at IS NULL"
    )
    op.create_table(
        "recovery_answers",
        sa.Column("sale_id", sa.Integer(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("process_id", sa.Uuid(), nullable=False),
        sa.Column("highest_seq", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["sale_id", "n"], ["recoveries.sale_id", "recoveries.n"], name=op.f("fk_recovery_answers_sale_id_n")
        ),
        sa.PrimaryKeyConstraint("sale_id", "n", "process_id", name=op.f("pk_recovery_answers")),
    )
    op.create_table(
        "recovery_claims",
        sa.Column("sale_id", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("quantity >= 1", name=op.f("ck_recovery_claims_quantity")),
        sa.CheckConstraint("source IN ('process', 'ledger', 'receipt')", name=op.f("ck_recovery_claims_source")),
        sa.CheckConstraint(
            "outcome IS NULL OR outcome IN ('recorded', 'honoured', 'refused', 'quarantined')",
            name=op.f("ck_recovery_claims_outcome"),
        ),
        sa.ForeignKeyConstraint(["sale_id"], ["sales.id"], name=op.f("fk_recovery_claims_sale_id")),
        sa.PrimaryKeyConstraint("sale_id", "epoch", "order_id", name=op.f("pk_recovery_claims")),
    )
    op.create_index(
        "ix_recovery_claims_pending",
        "recovery_claims",
        ["sale_id", "epoch", "order_id"],
        postgresql_where="outcome IS NULL",
    )
    op.create_index(
        "ix_recovery_claims_refused", "recovery_claims", ["sale_id"], postgresql_where="outcome = 'refused'"
    )
    op.create_table(
        "api_processes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_processes")),
    )
    op.create_index("ix_api_processes_seen_at", "api_processes", ["seen_at"])


def downgrade() -> None:
    """Undo. It is refused while a change asks for what an earlier release does not know."""
    op.drop_table("api_processes")
    op.drop_table("recovery_claims")
    op.drop_table("recovery_answers")
    op.drop_table("recoveries")
    op.execute(
        "ALTER TABLE sale_changes DROP CONSTRAINT ck_sale_changes_kind,"
        f" ADD CONSTRAINT ck_sale_changes_kind CHECK (kind IN ({KINDS}))"
    )
    op.drop_column("sale_epochs", "run_id")
    op.drop_column("sales", "recovery")
