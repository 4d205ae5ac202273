"""The rows of recoveries, of the API processes that are asked, and of the reservations that are reported."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, Integer, String, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from shop.database import Base, Recorded


class RecoveryStep(StrEnum):
    """What is to be done next. A step may be repeated, by anybody, until the next one is written."""

    FENCE = "fence"
    COMPARE = "compare"
    LIFT = "lift"
    LOAD = "load"
    HONOUR = "honour"
    OPEN = "open"
    DONE = "done"


class ClaimOutcome(StrEnum):
    """What became of a reservation that was reported."""

    RECORDED = "recorded"
    HONOURED = "honoured"
    REFUSED = "refused"
    QUARANTINED = "quarantined"


class Recovery(Recorded, Base):
    """The `n`-th recovery of a sale. `renew` asks for a new epoch whatever the comparison says.

    `unexplained` counts the events that were lost and that nobody could explain; each may have been a promise. The
    lease keeps two workers from building the same ledger alternately; nothing that must be true depends on it.
    """

    __tablename__ = "recoveries"
    __table_args__ = (
        CheckConstraint("step IN ('fence', 'compare', 'lift', 'load', 'honour', 'open', 'done')", name="step"),
        CheckConstraint("(step = 'done') = (finished_at IS NOT NULL)", name="finished"),
        CheckConstraint("unexplained >= 0", name="unexplained"),
        Index("ix_recoveries_unfinished", "sale_id", unique=True, postgresql_where="finished_at IS NULL"),
    )

    sale_id: Mapped[int] = mapped_column(ForeignKey("sales.id"), primary_key=True)
    n: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    from_epoch: Mapped[int] = mapped_column(Integer)
    to_epoch: Mapped[int | None] = mapped_column(Integer)
    reason: Mapped[str] = mapped_column(Text)
    renew: Mapped[bool]
    step: Mapped[RecoveryStep] = mapped_column(String(16), default=RecoveryStep.FENCE)
    step_at: Mapped[datetime] = mapped_column(server_default=func.now())
    unexplained: Mapped[int] = mapped_column(BigInteger, default=0)
    leased_by: Mapped[UUID | None]
    leased_until: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class RecoveryAnswer(Recorded, Base):
    """An API process has reported all that it had, and the highest sequence number that it saw."""

    __tablename__ = "recovery_answers"
    __table_args__ = (ForeignKeyConstraint(["sale_id", "n"], ["recoveries.sale_id", "recoveries.n"]),)

    sale_id: Mapped[int] = mapped_column(Integer, primary_key=True)
    n: Mapped[int] = mapped_column(Integer, primary_key=True)
    process_id: Mapped[UUID] = mapped_column(primary_key=True)
    highest_seq: Mapped[int] = mapped_column(BigInteger)


class RecoveryClaim(Recorded, Base):
    """An order that was promised in an epoch, whoever remembers it: a process, the old ledger or a buyer's receipt."""

    __tablename__ = "recovery_claims"
    __table_args__ = (
        CheckConstraint("quantity >= 1", name="quantity"),
        CheckConstraint("source IN ('process', 'ledger', 'receipt')", name="source"),
        CheckConstraint(
            "outcome IS NULL OR outcome IN ('recorded', 'honoured', 'refused', 'quarantined')", name="outcome"
        ),
        Index("ix_recovery_claims_refused", "sale_id", postgresql_where="outcome = 'refused'"),
        Index("ix_recovery_claims_pending", "sale_id", "epoch", "order_id", postgresql_where="outcome IS NULL"),
    )

    sale_id: Mapped[int] = mapped_column(ForeignKey("sales.id"), primary_key=True)
    epoch: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    order_id: Mapped[UUID] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger)
    user_id: Mapped[str] = mapped_column(String(64))
    quantity: Mapped[int] = mapped_column(Integer)
    source: Mapped[str] = mapped_column(String(16))
    outcome: Mapped[ClaimOutcome | None] = mapped_column(String(16))


class ApiProcess(Recorded, Base):
    """An API process that was alive at its last heartbeat, `seen_at`."""

    __tablename__ = "api_processes"
    __table_args__ = (Index("ix_api_processes_seen_at", "seen_at"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
