"""The rows of orders and their lines."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    String,
    Uuid,
    func,
    literal_column,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from shop.database import Base, Xid8

# An order's id begins with its sale's, and with zeros if it has none.
FIRST_OF_SALES = UUID(int=1 << 96)


class OrderStatus(StrEnum):
    RESERVED = "reserved"
    PAID = "paid"
    REFUNDED = "refunded"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class Order(Base):
    """An order. It is live until its units are back (`released_at`), and closed once they are owed (`closed_at`).

    The first 32 bits of `id` are the sale's id, so the rows of a sale lie together. An ordinary order has no sale, and
    gives its units back in the step that closes it. `user_id` has no foreign key: nothing that a client can send may
    make a batch fail.
    """

    __tablename__ = "orders"
    __table_args__ = (
        CheckConstraint("status IN ('reserved', 'paid', 'refunded', 'cancelled', 'expired')", name="status"),
        CheckConstraint("quantity >= 1", name="quantity"),
        CheckConstraint("total_minor >= 0", name="total_not_negative"),
        CheckConstraint("(status IN ('cancelled', 'expired')) <= (closed_at IS NOT NULL)", name="closed"),
        CheckConstraint("released_at IS NULL OR closed_at IS NOT NULL", name="released_is_closed"),
        CheckConstraint("sale_id IS NOT NULL OR (closed_at IS NULL) = (released_at IS NULL)", name="ordinary_released"),
        CheckConstraint("user_id ~ '^[A-Za-z0-9_-]{1,64}$'", name="user_id"),
        Index("ix_orders_due", "expires_at", postgresql_where="status = 'reserved'"),
        Index("ix_orders_owed", "closed_at", postgresql_where="closed_at IS NOT NULL AND released_at IS NULL"),
        Index("ix_orders_user", "user_id", "reserved_at", "id"),
        # Of ordinary orders alone, so that a batch of purchases does not write into it.
        Index("ix_orders_open", "user_id", postgresql_where="sale_id IS NULL AND status = 'reserved'"),
        # For the list of all orders, `shop.orders.listing`: a purchase writes into one of them when it is recorded.
        Index("ix_orders_sale", "sale_id", "status", "reserved_at", "id", postgresql_where="sale_id IS NOT NULL"),
        Index(
            "ix_orders_of_sales",
            "status",
            "reserved_at",
            "id",
            postgresql_where="sale_id IS NOT NULL AND status <> 'reserved'",
        ),
        Index("ix_orders_ordinary", "status", "reserved_at", "id", postgresql_where="sale_id IS NULL"),
        Index("ix_orders_replacements", "reserved_at", "id", postgresql_where="replaces IS NOT NULL"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    sale_id: Mapped[int | None] = mapped_column(ForeignKey("sales.id"))
    epoch: Mapped[int | None] = mapped_column(Integer)
    seq: Mapped[int | None] = mapped_column(BigInteger)
    user_id: Mapped[str] = mapped_column(String(64))
    status: Mapped[OrderStatus] = mapped_column(String(16))
    quantity: Mapped[int] = mapped_column(Integer)
    total_minor: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str] = mapped_column(String(3))
    reserved_at: Mapped[datetime]
    recorded_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]
    released_at: Mapped[datetime | None]
    replaces: Mapped[UUID | None]
    """The expired order whose late money paid this one."""


class OrderSalt(Base):
    """The salt of the ids of ordinary orders: one row, made once by its migration and kept for ever.

    A sale's salt stands in its row of `sales`. Ordinary orders cannot have a row 0 there, because a sale has a product.
    """

    __tablename__ = "order_salts"
    __table_args__ = (
        CheckConstraint("id = 0", name="one_row"),
        CheckConstraint("octet_length(salt) = 16", name="salt"),
    )

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    salt: Mapped[bytes] = mapped_column(LargeBinary)


class OrderEvent(Base):
    """One move of an order: where to, by whom, why. Written by `shop.orders.life` alone.

    `status` may also be a word of what was done about an order that stays what it is, such as `replaced`.
    An ordinary order has one that says that it was reserved; of a sale's order the ledger tells that.
    """

    __tablename__ = "order_events"
    __table_args__ = (
        Index("ix_order_events_order_id", "order_id", "id"),
        Index("ix_order_events_tx", "tx", "id", postgresql_where="tx IS NOT NULL"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    order_id: Mapped[UUID] = mapped_column(ForeignKey("orders.id"))
    status: Mapped[str] = mapped_column(String(16))
    moved_by: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    tx: Mapped[int | None] = mapped_column(Xid8, server_default=text("pg_current_xact_id()"))
    """For those who read what happened: see `shop.database.Xid8`. Events of the time before have none."""


class OrderLine(Base):
    """One product of an order, at the price it had."""

    __tablename__ = "order_lines"
    __table_args__ = (
        CheckConstraint("quantity >= 1", name="quantity"),
        CheckConstraint("price_minor >= 0", name="price_not_negative"),
        Index(
            "ix_order_lines_ordinary",
            "product_id",
            "reserved_at",
            "order_id",
            postgresql_where=f"order_id < '{FIRST_OF_SALES}'::uuid",
        ),
    )

    # No foreign key, which would be a quarter of a batch's time: the full audit finds lines without an order.
    order_id: Mapped[UUID] = mapped_column(primary_key=True)
    line: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    product_id: Mapped[int] = mapped_column(ForeignKey("products.id"))
    quantity: Mapped[int] = mapped_column(Integer)
    price_minor: Mapped[int] = mapped_column(BigInteger)
    reserved_at: Mapped[datetime | None] = mapped_column(server_default=func.now())
    """That of an ordinary order, of which a product may have millions; for a line of a sale it means nothing."""


ORDINARY_LINES = OrderLine.order_id < literal_column(f"'{FIRST_OF_SALES}'::uuid", Uuid())
"""What the index of the lines of ordinary orders says."""
