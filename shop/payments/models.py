"""The rows of payments, refunds, and what the provider told."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    Numeric,
    SmallInteger,
    String,
    false,
    func,
    literal_column,
    true,
)
from sqlalchemy.orm import Mapped, mapped_column

from shop.database import Base, Recorded


class PaymentStatus(StrEnum):
    """What is known of the money, in the order in which it can happen; a payment never goes back.

    `wanted` has no intent yet that we know of, `open` has one, `cancelled` can no longer be paid.
    """

    WANTED = "wanted"
    OPEN = "open"
    CANCELLED = "cancelled"
    CAPTURED = "captured"


class Payment(Recorded, Base):
    """The one payment of an order; the order's id and the number of its attempt are the key at the provider.

    One intent can be paid at a time: the next attempt begins when the provider has said that the last one is over; its
    intent is a `SupersededIntent` then. Once captured, the money is `paid_order_id`'s (the order, or its replacement),
    or belongs to a `Refund`, or is unsettled: then the matching job gives it one of the two (I11).
    """

    __tablename__ = "payments"
    __table_args__ = (
        CheckConstraint("status IN ('wanted', 'open', 'cancelled', 'captured')", name="status"),
        CheckConstraint("amount_minor >= 0", name="amount_not_negative"),
        CheckConstraint("(status = 'captured') = (captured_at IS NOT NULL)", name="captured"),
        CheckConstraint("paid_order_id IS NULL OR captured_at IS NOT NULL", name="paid_is_captured"),
        CheckConstraint("settled_at IS NULL OR captured_at IS NOT NULL", name="settled_is_captured"),
        Index(
            "ix_payments_unsettled", "captured_at", postgresql_where="captured_at IS NOT NULL AND settled_at IS NULL"
        ),
        # For the list of all payments, `shop.payments.listing`.
        Index("ix_payments_status", "status", "created_at", "order_id"),
        Index("ix_payments_currency", "currency", "status", "created_at", "order_id"),
        Index(
            "ix_payments_unsettled_newest",
            "created_at",
            "order_id",
            postgresql_where="captured_at IS NOT NULL AND settled_at IS NULL",
        ),
        Index("ix_payments_recount", "counted", "order_id", postgresql_where="recount"),
        Index("ix_payments_unfinished", "ask_at", postgresql_where="status IN ('wanted', 'open')"),
    )

    order_id: Mapped[UUID] = mapped_column(ForeignKey("orders.id"), primary_key=True)
    intent_id: Mapped[str | None] = mapped_column(String(64), unique=True)
    status: Mapped[PaymentStatus] = mapped_column(String(16))
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str] = mapped_column(String(3))
    pay_url: Mapped[str | None] = mapped_column(String(2_000))
    return_url: Mapped[str | None] = mapped_column(String(2_000))
    """Where the provider sends the buyer after this attempt, as the request said that began it."""
    captured_at: Mapped[datetime | None]
    settled_at: Mapped[datetime | None]
    """When the captured money was given to an order or to a refund."""
    paid_order_id: Mapped[UUID | None] = mapped_column(ForeignKey("orders.id"), unique=True)
    ask_at: Mapped[datetime] = mapped_column(server_default=func.now())
    """When the provider is to be asked for the truth, if no event comes."""
    tries: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    attempt: Mapped[int] = mapped_column(SmallInteger, server_default="1")
    start_keys: Mapped[list[str]] = mapped_column(ARRAY(String(128)), server_default="{}")
    """The newest keys with which a buyer has started it: who comes with one again is told that this is a repeat."""
    declines: Mapped[int] = mapped_column(Integer, server_default="0")
    decline_code: Mapped[str | None] = mapped_column(String(128))
    version: Mapped[int] = mapped_column(Integer, server_default="0")
    """How often what its buyer sees of it has changed."""
    told_seq: Mapped[int | None] = mapped_column(BigInteger)
    """The newest event that told of this money, when that was, and what it told."""
    told_at: Mapped[datetime | None]
    told_refunded_minor: Mapped[int | None] = mapped_column(BigInteger)
    counted: Mapped[int | None] = mapped_column(SmallInteger)
    """What the `MoneyTotal` of its currency has of it (`shop.payments.totals`); null when it has nothing yet."""
    recount: Mapped[bool] = mapped_column(server_default=true())
    """Whether that may be something else by now. Triggers of Postgres set it, whoever changes the money."""


class MoneyTotal(Base):
    """The money of a currency as the worker has counted it; what was changed since is `Payment.recount`."""

    __tablename__ = "money_totals"

    currency: Mapped[str] = mapped_column(String(3), primary_key=True)
    captured_minor: Mapped[Decimal] = mapped_column(Numeric)
    paid_minor: Mapped[Decimal] = mapped_column(Numeric)
    refunded_minor: Mapped[Decimal] = mapped_column(Numeric)
    refund_pending_minor: Mapped[Decimal] = mapped_column(Numeric)
    refund_taken_back_minor: Mapped[Decimal] = mapped_column(Numeric)
    unsettled_minor: Mapped[Decimal] = mapped_column(Numeric)
    wrong_payments: Mapped[int] = mapped_column(BigInteger)


class SupersededIntent(Recorded, Base):
    """An intent that the provider has ended while its order could still be paid: another one took its place."""

    __tablename__ = "superseded_intents"

    intent_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    order_id: Mapped[UUID] = mapped_column(ForeignKey("payments.order_id"), index=True)


class RefundStatus(StrEnum):
    """`taken_back` was done, until the provider said that the money did not go back after all: somebody must look."""

    PENDING = "pending"
    DONE = "done"
    TAKEN_BACK = "taken_back"


class Refund(Recorded, Base):
    """Captured money that goes back, whole: one for a payment at most, whose id is the key at the provider too."""

    __tablename__ = "refunds"
    __table_args__ = (
        CheckConstraint("status IN ('pending', 'done', 'taken_back')", name="status"),
        CheckConstraint("amount_minor >= 0", name="amount_not_negative"),
        Index("ix_refunds_pending", "ask_at", postgresql_where="status = 'pending'"),
        Index("ix_refunds_taken_back", "payment_id", postgresql_where="status = 'taken_back'"),
    )

    payment_id: Mapped[UUID] = mapped_column(ForeignKey("payments.order_id"), primary_key=True)
    status: Mapped[RefundStatus] = mapped_column(String(16))
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str] = mapped_column(String(64))
    done_at: Mapped[datetime | None]
    ask_at: Mapped[datetime] = mapped_column(server_default=func.now())
    tries: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    told: Mapped[bool] = mapped_column(server_default=false())
    """Whether an event of the provider has told of it, after which none may tell of less."""


class ProviderEvent(Base):
    """An event of the provider, once, and what became of it: `applied`, or why it was not.

    `unreadable` and `failed` ones were passed, so that others did not wait for them; when they come again, they are
    taken.
    """

    __tablename__ = "provider_events"
    __table_args__ = (Index("ix_provider_events_mismatches", "intent_id", postgresql_where="outcome = 'mismatch'"),)

    id: Mapped[str] = mapped_column(String(128), primary_key=True)
    kind: Mapped[str] = mapped_column(String(64))
    intent_id: Mapped[str] = mapped_column(String(64), index=True)
    outcome: Mapped[str] = mapped_column(String(32))
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())


MISMATCHES = ProviderEvent.outcome == literal_column("'mismatch'")
"""What the index of the events that did not fit says."""


class ProviderCursor(Base):
    """Up to where the provider's own list of events was read: one row."""

    __tablename__ = "provider_cursors"
    __table_args__ = (CheckConstraint("id = 0", name="one_row"),)

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    after: Mapped[int] = mapped_column(BigInteger)
