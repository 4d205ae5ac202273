"""The rows of sales, their epochs, their numbered changes and their ledger."""

from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from shop.bounds import TIME_MAX, TIME_MIN
from shop.database import Base, Recorded


class SaleStatus(StrEnum):
    """What is recorded. Between `scheduled` and `ended`, a sale opens and ends by the clock: see `SalePhase`."""

    DRAFT = "draft"
    SCHEDULED = "scheduled"
    ENDED = "ended"
    SETTLED = "settled"


class ChangeKind(StrEnum):
    PAUSE = "pause"
    RESUME = "resume"
    WINDOW = "window"
    UNITS = "units"
    CLOSE = "close"
    END = "end"
    SETTLE = "settle"
    RESTORE = "restore"


class Sale(Recorded, Base):
    """A sale and, in the same row, the guard: Postgres itself refuses to record more units than there are.

    `epoch` and `watermark` say up to where the ledger's stream is recorded; `watermark_balance` is the balance there.
    """

    __tablename__ = "sales"
    __table_args__ = (
        CheckConstraint("id >= 0 AND id < 2147483647", name="id"),
        CheckConstraint("units >= 0", name="units_not_negative"),
        CheckConstraint("units_taken >= 0", name="units_taken_not_negative"),
        CheckConstraint("units_taken <= units", name="no_oversell"),
        CheckConstraint("price_minor >= 0", name="price_not_negative"),
        CheckConstraint("units_per_user >= 1", name="units_per_user"),
        CheckConstraint("orders_per_user >= 1", name="orders_per_user"),
        CheckConstraint("hold_seconds BETWEEN 1 AND 2592000", name="hold_seconds"),
        CheckConstraint("ends_at > starts_at", name="window"),
        CheckConstraint(f"starts_at >= '{TIME_MIN}' AND ends_at <= '{TIME_MAX}'", name="horizon"),
        CheckConstraint("status IN ('draft', 'scheduled', 'ended', 'settled')", name="status"),
        CheckConstraint("watermark >= 0 AND watermark_balance >= 0", name="watermark"),
        CheckConstraint("held_back >= 0", name="held_back"),
        Index("ix_sales_alive", "id", postgresql_where="status IN ('scheduled', 'ended')"),
    )

    id: Mapped[int] = mapped_column(Integer, Identity(), primary_key=True)
    product_id: Mapped[int] = mapped_column(ForeignKey("products.id"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    units: Mapped[int] = mapped_column(Integer)
    units_taken: Mapped[int] = mapped_column(Integer, default=0)
    price_minor: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str] = mapped_column(String(3))
    units_per_user: Mapped[int] = mapped_column(Integer, default=1)
    orders_per_user: Mapped[int] = mapped_column(Integer, default=10)
    hold_seconds: Mapped[int] = mapped_column(Integer, default=900)
    starts_at: Mapped[datetime]
    ends_at: Mapped[datetime]
    status: Mapped[SaleStatus] = mapped_column(String(16), default=SaleStatus.DRAFT)
    paused: Mapped[bool] = mapped_column(default=False)
    salt: Mapped[bytes] = mapped_column(LargeBinary)
    epoch: Mapped[int] = mapped_column(Integer, default=0)
    watermark: Mapped[int] = mapped_column(BigInteger, default=0)
    watermark_balance: Mapped[int] = mapped_column(Integer, default=0)
    changes: Mapped[int] = mapped_column(Integer, default=0)
    held_back: Mapped[int] = mapped_column(Integer, default=0)
    recovery: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """How many recoveries there were, an unfinished one included."""
    alarm: Mapped[str | None] = mapped_column(Text)
    stopped_at: Mapped[datetime | None]
    """Since when an audit keeps the sale closed; only a recovery that an operator asks for ends that."""
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())


class SaleEpoch(Recorded, Base):
    """One ledger of a sale. `loaded_at` is set once, with the token of the loader that was complete.

    `run_id` names the run of Redis in which the ledger was last compared with Postgres.
    """

    __tablename__ = "sale_epochs"
    __table_args__ = (
        CheckConstraint("epoch >= 1", name="epoch"),
        CheckConstraint("opening_balance >= 0", name="opening_balance"),
        CheckConstraint("(loaded_at IS NULL) = (token IS NULL)", name="loaded_by"),
    )

    sale_id: Mapped[int] = mapped_column(ForeignKey("sales.id"), primary_key=True)
    epoch: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    opening_balance: Mapped[int] = mapped_column(Integer)
    loaded_at: Mapped[datetime | None]
    token: Mapped[str | None] = mapped_column(String(32))
    run_id: Mapped[str | None] = mapped_column(String(64))


class SaleChange(Recorded, Base):
    """A numbered change of a sale, gapless. The ledger applies each once; its event closes the row."""

    __tablename__ = "sale_changes"
    __table_args__ = (
        CheckConstraint("n >= 1", name="n"),
        CheckConstraint(
            "kind IN ('pause', 'resume', 'window', 'units', 'close', 'end', 'settle', 'restore')", name="kind"
        ),
        CheckConstraint("(kind = 'units') = (units_delta IS NOT NULL)", name="units_delta"),
        CheckConstraint("(kind = 'window') = (starts_at IS NOT NULL AND ends_at IS NOT NULL)", name="window"),
        CheckConstraint(f"starts_at >= '{TIME_MIN}' AND ends_at <= '{TIME_MAX}'", name="horizon"),
        CheckConstraint("(outcome IS NULL) = (closed_at IS NULL)", name="closed"),
        Index("ix_sale_changes_open", "sale_id", "n", postgresql_where="outcome IS NULL"),
    )

    sale_id: Mapped[int] = mapped_column(ForeignKey("sales.id"), primary_key=True)
    n: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    kind: Mapped[ChangeKind] = mapped_column(String(16))
    starts_at: Mapped[datetime | None]
    ends_at: Mapped[datetime | None]
    units_delta: Mapped[int | None] = mapped_column(Integer)
    requested_by: Mapped[str] = mapped_column(String(64))
    outcome: Mapped[str | None] = mapped_column(String(32))
    closed_at: Mapped[datetime | None]


class LedgerPosition(NamedTuple):
    """A position in the ledgers of a sale, which follow each other by their epochs."""

    epoch: int
    seq: int


class LedgerRow(Base):
    """One event of the ledger as it was drained: the sequence (sale, epoch, seq) has no gap and no repeat."""

    __tablename__ = "stock_ledger"
    __table_args__ = (
        ForeignKeyConstraint(["sale_id", "epoch"], ["sale_epochs.sale_id", "sale_epochs.epoch"]),
        CheckConstraint("seq >= 1", name="seq"),
        CheckConstraint("balance >= 0", name="balance_not_negative"),
        # Of a few rows only, so that a batch of purchases writes into neither: see `shop.audit`.
        Index("ix_stock_ledger_released", "order_id", postgresql_where="kind = 'released'"),
        Index("ix_stock_ledger_ran_out", "sale_id", "epoch", "seq", postgresql_where="balance = 0 AND delta < 0"),
    )

    sale_id: Mapped[int] = mapped_column(Integer, primary_key=True)
    epoch: Mapped[int] = mapped_column(Integer, primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    order_id: Mapped[UUID | None]
    user_id: Mapped[str | None] = mapped_column(String(64))
    change_n: Mapped[int | None] = mapped_column(Integer)
    quantity: Mapped[int] = mapped_column(Integer)
    delta: Mapped[int] = mapped_column(Integer)
    balance: Mapped[int] = mapped_column(Integer)
    at: Mapped[datetime]
    quarantined: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
