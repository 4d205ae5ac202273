"""Every query about orders.

Where a query names orders by their ids, what else it asks of them is written so that no partial index answers it. The
planner believes that few orders are reserved or owed, and so that reading all of those costs least. After a crowd they
are a hundred thousand, and it would read them again for every batch.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Select,
    Update,
    Uuid,
    any_,
    case,
    func,
    insert,
    literal,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession

from shop.ledger.order_ids import ids_of_sale
from shop.orders.models import Order, OrderEvent, OrderLine, OrderSalt, OrderStatus
from shop.orders.payment_of import payment_versions

RECORDED = 2  # the version of an order that has just got its row, see `shop.orders.versions`


class Owed(NamedTuple):
    """A closed order of a sale whose units are not back yet."""

    order_id: UUID
    sale_id: int
    seq: int


class Moved(NamedTuple):
    """What whoever moves many orders needs of each."""

    id: UUID
    sale_id: int | None
    seq: int | None
    closed_at: datetime | None
    released_at: datetime | None


class Cursor(NamedTuple):
    """A position among the owed orders of a sale."""

    closed_at: datetime
    order_id: UUID


async def find(session: AsyncSession, order_id: UUID, user_id: str) -> Order | None:
    """This user's order; another user's is not found."""
    query = select(Order).where(Order.id == order_id, Order.user_id == user_id)
    return (await session.execute(query)).scalar_one_or_none()


async def find_any(session: AsyncSession, order_id: UUID) -> Order | None:
    """The order, whoever its buyer is."""
    return await session.get(Order, order_id, populate_existing=True)


async def lock(session: AsyncSession, order_id: UUID) -> Order:
    """The order, which must be there, locked until the transaction ends."""
    return await session.get_one(Order, order_id, with_for_update=True, populate_existing=True)


async def find_locked(session: AsyncSession, order_id: UUID) -> Order | None:
    """The order, if it is there, locked until the transaction ends."""
    return await session.get(Order, order_id, with_for_update=True, populate_existing=True)


async def find_each(session: AsyncSession, order_ids: Sequence[UUID]) -> Sequence[Order]:
    """Those of these orders that have rows, whoever bought them: the caller has asked who may see them."""
    query = select(Order).where(Order.id == any_(_ids(order_ids)))
    return (await session.execute(query)).scalars().all()


async def versions(session: AsyncSession, order_ids: Sequence[UUID], user_id: str | None = None) -> dict[UUID, int]:
    """The version (see `shop.orders.versions`) of those of these orders that have rows (of this user)."""
    of_order = (OrderEvent.order_id == Order.id, OrderEvent.status != OrderStatus.RESERVED)
    moves = select(func.count(OrderEvent.id)).where(*of_order).scalar_subquery()
    version = RECORDED + moves + case((Order.released_at.is_not(None), 1), else_=0) + payment_versions(session)
    query = select(Order.id, version).where(Order.id == any_(_ids(order_ids)))
    if user_id is not None:
        query = query.where(Order.user_id == user_id)
    return {order_id: counted for order_id, counted in await session.execute(query)}  # noqa: C416 - rows are not pairs to dict()


async def lines(session: AsyncSession, order_id: UUID) -> Sequence[OrderLine]:
    """The lines of an order."""
    return await lines_of_each(session, [order_id])


async def lines_of_each(session: AsyncSession, order_ids: Sequence[UUID]) -> Sequence[OrderLine]:
    """The lines of several orders, those of one in their order."""
    query = select(OrderLine).where(OrderLine.order_id == any_(_ids(order_ids))).order_by(OrderLine.line)
    return (await session.execute(query)).scalars().all()


async def page(session: AsyncSession, user_id: str, *, limit: int, starting_after: UUID | None) -> Sequence[Order]:
    """Up to `limit` orders of a user, the newest first."""
    query = select(Order).where(Order.user_id == user_id).order_by(Order.reserved_at.desc(), Order.id.desc())
    if starting_after is not None:
        cursor = select(Order.reserved_at, Order.id).where(Order.id == starting_after, Order.user_id == user_id)
        query = query.where(tuple_(Order.reserved_at, Order.id) < cursor.scalar_subquery())
    return (await session.execute(query.limit(limit))).scalars().all()


async def set_status(
    session: AsyncSession,
    orders: Sequence[UUID] | Select[UUID],
    *,
    before: OrderStatus,
    after: OrderStatus,
    closes: bool,
) -> list[Order]:
    """Compare and set: the orders that had the status `before` and have `after` now. For `shop.orders.life` alone.

    When that closes them, an ordinary order is released too: the caller gives its units back.
    """
    statement = _status_change(orders, before=before, after=after, closes=closes).returning(Order)
    return list(await session.scalars(statement, execution_options={"populate_existing": True}))


async def set_status_of_many(
    session: AsyncSession,
    orders: Sequence[UUID] | Select[UUID],
    *,
    before: OrderStatus,
    after: OrderStatus,
    closes: bool,
) -> list[Moved]:
    """As `set_status`, for orders that this session has not read: most of the time of a batch would go into them."""
    columns = (Order.id, Order.sale_id, Order.seq, Order.closed_at, Order.released_at)
    statement = _status_change(orders, before=before, after=after, closes=closes).returning(*columns)
    moved = await session.execute(statement, execution_options={"synchronize_session": False})
    return [Moved(*row) for row in moved]


def _status_change(
    orders: Sequence[UUID] | Select[UUID], *, before: OrderStatus, after: OrderStatus, closes: bool
) -> Update:
    changes: dict[str, Any] = {"status": after}
    if closes:
        released_at = case((Order.sale_id.is_(None), func.now()), else_=Order.released_at)
        changes |= {"closed_at": func.now(), "released_at": released_at}
    return update(Order).where(_one_of(orders), Order.status.concat("") == before).values(changes)


def _one_of(orders: Sequence[UUID] | Select[UUID]) -> ColumnElement[bool]:
    if isinstance(orders, Select):
        # An array is made once. IN may run the query again for each row, and each time it would lock `limit` others.
        return Order.id == any_(func.array(orders.scalar_subquery()))
    # One array: with a parameter an order, a large batch would have more than Postgres takes, and each size a plan.
    return Order.id == any_(_ids(orders))


async def ordinary_salt(session: AsyncSession) -> bytes:
    """The salt of the ids of orders that have no sale."""
    return (await session.execute(select(OrderSalt.salt))).scalar_one()


async def add_ordinary(
    session: AsyncSession, lines: Sequence[tuple[int, int, int]], *, hold_seconds: int, **fields: Any
) -> Order:
    """The new order without a sale, reserved, with its lines of (product_id, quantity, price_minor)."""
    now = func.now()
    statement = (
        insert(Order)
        .values(
            status=OrderStatus.RESERVED,
            reserved_at=now,
            recorded_at=now,
            expires_at=now + timedelta(seconds=hold_seconds),
            **fields,
        )
        .returning(Order)
    )
    order = (await session.scalars(statement)).one()
    rows = [
        {"order_id": order.id, "line": number, "product_id": product_id, "quantity": quantity, "price_minor": price}
        for number, (product_id, quantity, price) in enumerate(lines, start=1)
    ]
    await session.execute(insert(OrderLine), rows)
    return order


def units_of(order_ids: Sequence[UUID]) -> Select[int, int]:
    """The units of these orders by product, as a query of (product_id, units)."""
    units = func.sum(OrderLine.quantity).label("units")
    these = OrderLine.order_id == any_(_ids(order_ids))
    return select(OrderLine.product_id, units).where(these).group_by(OrderLine.product_id)


async def add_events(session: AsyncSession, order_ids: Sequence[UUID], **fields: str) -> None:
    """Note the same move of several orders."""
    rows = select(func.unnest(_ids(order_ids)), *map(literal, fields.values()))
    await session.execute(insert(OrderEvent).from_select(["order_id", *fields], rows))


async def events(session: AsyncSession, order_id: UUID) -> Sequence[OrderEvent]:
    """The moves of an order, in their order."""
    return await events_of_each(session, [order_id])


async def events_of_each(session: AsyncSession, order_ids: Sequence[UUID]) -> Sequence[OrderEvent]:
    """The moves of several orders, those of one in their order. That they were reserved is told by their rows."""
    moves = (OrderEvent.order_id == any_(_ids(order_ids)), OrderEvent.status != OrderStatus.RESERVED)
    query = select(OrderEvent).where(*moves).order_by(OrderEvent.id)
    return (await session.execute(query)).scalars().all()


async def hold_is_over(session: AsyncSession, order_id: UUID) -> bool:
    """Whether the hold of this order has run out, by Postgres time."""
    query = select(Order.expires_at <= func.now()).where(Order.id == order_id)
    return (await session.execute(query)).scalar_one()


def due(limit: int, *, of_sales: bool) -> Select[UUID]:
    """Up to `limit` orders of sales, or without one, whose hold has run out by Postgres time, the first due first.

    What somebody has locked is skipped: another worker that expires it, or a payment.
    """
    has_sale = Order.sale_id.is_not(None) if of_sales else Order.sale_id.is_(None)
    return (
        select(Order.id)
        .where(Order.status == OrderStatus.RESERVED, Order.expires_at <= func.now(), has_sale)
        .order_by(Order.expires_at)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True)
    )


IS_OWED = (Order.closed_at.is_not(None), Order.released_at.is_(None), Order.sale_id.is_not(None))


async def sales_that_owe(session: AsyncSession) -> list[int]:
    """The sales that have closed orders whose units are not back."""
    return [sale_id or 0 for sale_id in await session.scalars(select(Order.sale_id).where(*IS_OWED).distinct())]


async def owed(
    session: AsyncSession, sale_id: int, *, limit: int, after: Cursor | None = None
) -> tuple[list[Owed], Cursor | None]:
    """Closed orders of a sale whose units are not back, the oldest first; and where the next ones begin, if any do."""
    query = (
        select(Order.id, Order.seq, Order.closed_at)
        .where(*IS_OWED, Order.sale_id == sale_id)
        .order_by(Order.closed_at, Order.id)
        .limit(limit)
    )
    if after is not None:
        query = query.where(tuple_(Order.closed_at, Order.id) > tuple_(*map(literal, after)))
    rows = (await session.execute(query)).all()
    found = [Owed(order_id, sale_id, seq or 0) for order_id, seq, _ in rows]
    return found, Cursor(rows[-1].closed_at, rows[-1].id) if len(rows) == limit else None


async def mark_released(session: AsyncSession, order_ids: Sequence[UUID]) -> dict[UUID, int]:
    """Record that the units of closed orders are back; returns the units of those that were waiting for it."""
    is_waiting = func.num_nulls(Order.closed_at, Order.released_at) == 1  # released without being closed: impossible
    released = await session.execute(
        update(Order)
        .where(_one_of(order_ids), is_waiting)
        .values(released_at=func.now())
        .returning(Order.id, Order.quantity),
        execution_options={"synchronize_session": False},
    )
    return {order_id: quantity for order_id, quantity in released}  # noqa: C416 - rows are not pairs to dict()


async def has_unfinished(session: AsyncSession, sale_id: int) -> bool:
    """Whether a sale has an order that is reserved, or closed with its units not back."""
    ids = ids_of_sale(sale_id)
    unfinished = or_(Order.status == OrderStatus.RESERVED, Order.closed_at.is_not(None) & Order.released_at.is_(None))
    query = select(Order.id).where(Order.id.between(ids.first, ids.last), unfinished).limit(1)
    return (await session.execute(query)).first() is not None


def _ids(order_ids: Sequence[UUID]) -> ColumnElement[list[UUID]]:
    """One array: with a parameter an order, a large batch would have more than Postgres takes."""
    return literal(list(order_ids), ARRAY(Uuid))
