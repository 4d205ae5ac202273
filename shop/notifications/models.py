"""The rows of webhooks, of notifications and their deliveries, and of how far the collector has come."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Integer,
    SmallInteger,
    String,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from shop.database import Base, Recorded, Xid8
from shop.notifications.kinds import Kind, Sink

PENDING = "delivered_at IS NULL AND dead_at IS NULL"
ERROR_LENGTH_MAX = 200


class Webhook(Recorded, Base):
    """A URL of a merchant who wants to hear of orders. `previous_secret` signs too until its time is over."""

    __tablename__ = "webhooks"
    __table_args__ = (
        CheckConstraint("(disabled_at IS NULL) = (disabled_reason IS NULL)", name="disabled"),
        CheckConstraint("(previous_secret IS NULL) = (previous_secret_until IS NULL)", name="previous_secret"),
    )

    id: Mapped[int] = mapped_column(Integer, Identity(), primary_key=True)
    url: Mapped[str] = mapped_column(String(2_000))
    description: Mapped[str] = mapped_column(String(200))
    events: Mapped[list[str]] = mapped_column(JSONB)
    secret: Mapped[str] = mapped_column(String(64))
    previous_secret: Mapped[str | None] = mapped_column(String(64))
    previous_secret_until: Mapped[datetime | None]
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None] = mapped_column(String(16))
    """`admin`, `gone` (it answered 410) or `failing`."""
    failing_since: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]


class Notification(Recorded, Base):
    """One thing that somebody is told. Its id follows from what happened, so that it is made once."""

    __tablename__ = "notifications"
    __table_args__ = (Index("ix_notifications_created_at", "created_at"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[Kind] = mapped_column(String(32))
    order_id: Mapped[UUID | None]
    user_id: Mapped[str] = mapped_column(String(64))
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB)


class Delivery(Recorded, Base):
    """A notification on its way to one receiver: pending, delivered, or dead.

    An attempt pushes `next_try_at` forward first: that is its lease. `tries` tells one lease from the next.
    """

    __tablename__ = "deliveries"
    __table_args__ = (
        CheckConstraint("sink IN ('log', 'mail', 'webhook')", name="sink"),
        CheckConstraint("(sink = 'webhook') = (webhook_id IS NOT NULL)", name="webhook"),
        CheckConstraint("delivered_at IS NULL OR dead_at IS NULL", name="one_end"),
        Index("ix_deliveries_notification_id", "notification_id"),
        Index("ix_deliveries_due", "sink", "webhook_id", "next_try_at", postgresql_where=PENDING),
        Index("ix_deliveries_give_up", "give_up_at", postgresql_where=PENDING),
        Index("ix_deliveries_dead", "id", postgresql_where="dead_at IS NOT NULL"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    notification_id: Mapped[UUID] = mapped_column(ForeignKey("notifications.id", ondelete="CASCADE"))
    sink: Mapped[Sink] = mapped_column(String(16))
    webhook_id: Mapped[int | None] = mapped_column(ForeignKey("webhooks.id"))
    tries: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    next_try_at: Mapped[datetime] = mapped_column(server_default=func.now())
    give_up_at: Mapped[datetime]
    delivered_at: Mapped[datetime | None]
    dead_at: Mapped[datetime | None]
    last_error: Mapped[str | None] = mapped_column(String(ERROR_LENGTH_MAX))


class CollectorPosition(Base):
    """Up to where the collector has read everything but the ledgers of sales: one row.

    The two `tx` are those of `shop.database.Xid8`.
    """

    __tablename__ = "collector_position"
    __table_args__ = (CheckConstraint("id = 0", name="one_row"),)

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    event_tx: Mapped[int] = mapped_column(Xid8, server_default=text("'0'"))
    event_id: Mapped[int] = mapped_column(BigInteger, server_default="0")
    user_tx: Mapped[int] = mapped_column(Xid8, server_default=text("'0'"))
    user_id: Mapped[str] = mapped_column(String(64), server_default="")
    expires_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expiring_id: Mapped[UUID] = mapped_column(server_default=text("'00000000-0000-0000-0000-000000000000'"))


class CollectorSale(Base):
    """Up to where the collector has read the ledger of a sale: epochs follow each other, and so do the seq of one."""

    __tablename__ = "collector_sales"

    sale_id: Mapped[int] = mapped_column(ForeignKey("sales.id"), primary_key=True)
    epoch: Mapped[int] = mapped_column(Integer)
    seq: Mapped[int] = mapped_column(BigInteger)
