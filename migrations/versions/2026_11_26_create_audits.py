"""Create what the audit remembers: how far each ledger is verified, and what it found wrong."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "2026_11_26_create_audits"
down_revision = "2026_11_25_create_recoveries"


def upgrade() -> None:
    """Apply."""
    op.add_column("sales", sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "sale_audits",
        sa.Column("sale_id", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("verified_seq", sa.BigInteger(), nullable=False),
        sa.Column("balance", sa.BigInteger(), nullable=False),
        sa.Column("units_taken", sa.BigInteger(), nullable=False),
        sa.Column("held_back", sa.BigInteger(), nullable=False),
        sa.Column("quarantined", sa.BigInteger(), nullable=False),
        sa.Column("checked_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("verified_seq >= 0", name=op.f("ck_sale_audits_verified_seq")),
        sa.ForeignKeyConstraint(
            ["sale_id", "epoch"],
            ["sale_epochs.sale_id", "sale_epochs.epoch"],
            name=op.f("fk_sale_audits_sale_id_epoch"),
        ),
        sa.PrimaryKeyConstraint("sale_id", "epoch", name=op.f("pk_sale_audits")),
    )
    op.create_index("ix_sale_audits_unfinished", "sale_audits", ["sale_id"], postgresql_where="finished_at IS NULL")
    op.create_table(
        "audit_findings",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("sale_id", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("watermark", sa.BigInteger(), nullable=False),
        sa.Column("violations", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("evidence", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["sale_id"], ["sales.id"], name=op.f("fk_audit_findings_sale_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_findings")),
    )
    op.create_index("ix_audit_findings_sale", "audit_findings", ["sale_id", "id"])


def downgrade() -> None:
    """Undo. A sale that an audit has stopped sells again under the earlier release, once it is recovered."""
    op.drop_table("audit_findings")
    op.drop_table("sale_audits")
    op.drop_column("sales", "stopped_at")
