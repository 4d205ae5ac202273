"""The rows of the audit: how far each ledger is verified, and what was found wrong, with the evidence."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, ForeignKeyConstraint, Identity, Index, Integer, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from shop.database import Base, Recorded


class SaleAudit(Recorded, Base):
    """Up to where the ledger of one epoch is verified, and the sums that the ledger leads to there.

    The row moves by comparing and setting `verified_seq`, so several auditors do not disturb each other. `checked_at`
    is the moment of the last good snapshot; `finished_at` that of the full pass after the sale was settled.
    """

    __tablename__ = "sale_audits"
    __table_args__ = (
        ForeignKeyConstraint(["sale_id", "epoch"], ["sale_epochs.sale_id", "sale_epochs.epoch"]),
        CheckConstraint("verified_seq >= 0", name="verified_seq"),
        Index("ix_sale_audits_unfinished", "sale_id", postgresql_where="finished_at IS NULL"),
    )

    sale_id: Mapped[int] = mapped_column(Integer, primary_key=True)
    epoch: Mapped[int] = mapped_column(Integer, primary_key=True)
    verified_seq: Mapped[int] = mapped_column(BigInteger)
    balance: Mapped[int] = mapped_column(BigInteger)
    units_taken: Mapped[int] = mapped_column(BigInteger)
    held_back: Mapped[int] = mapped_column(BigInteger)
    quarantined: Mapped[int] = mapped_column(BigInteger)
    """Units that left the balance by entries that were quarantined."""
    checked_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]


class AuditFinding(Recorded, Base):
    """An invariant that did not hold, twice in a row: the sentences, and the numbers and rows that show it."""

    __tablename__ = "audit_findings"
    __table_args__ = (Index("ix_audit_findings_sale", "sale_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    sale_id: Mapped[int] = mapped_column(ForeignKey("sales.id"))
    epoch: Mapped[int] = mapped_column(Integer)
    watermark: Mapped[int] = mapped_column(BigInteger)
    violations: Mapped[list[str]] = mapped_column(JSONB)
    evidence: Mapped[dict[str, Any]] = mapped_column(JSONB)
