"""Every query of the list of all orders. For each set of filters there is an index that has its rows in their order.

What a user has ordered is read whole; a product's orders are those of each of its sales, and the ordinary ones.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, literal_column, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from shop.orders.listing.schemas import OrderQuery
from shop.orders.models import ORDINARY_LINES, Order, OrderLine, OrderStatus
from shop.paging import Position, bounded, is_among, newest, newest_first, position_after
from shop.sales.models import Sale
from shop.sales.repository import ALIVE

OF_SALE, ORDINARY = Order.sale_id.is_not(None), Order.sale_id.is_(None)
# Literally what the index is of: of a parameter Postgres could not know that it is not this status.
NOT_RESERVED = Order.status != literal_column("'reserved'")


async def page(session: AsyncSession, asked: OrderQuery) -> Sequence[Order]:
    """The orders of a page, the newest first, and one more if there are more. Raises Invalid for an unknown cursor."""
    at = None
    if asked.starting_after is not None:
        at = await session.scalar(select(Order.reserved_at).where(Order.id == asked.starting_after))
    after = position_after(asked.starting_after, at)
    found = newest(list(_queries(asked, after)), asked, after)
    query = select(Order).join(found, is_among(Order.id, found)).order_by(*newest_first(found))
    return (await session.scalars(query)).all()


def _queries(asked: OrderQuery, after: Position | None) -> list[Select[datetime, UUID]]:
    """Queries of (reserved_at, id), each of which one index answers in this order."""
    if asked.user_id is not None or asked.replacement:
        return [_orders(*_conditions(asked))]
    statuses = [asked.status] if asked.status else list(OrderStatus)
    if asked.sale_id is not None:
        return [_orders(*_conditions(asked), OF_SALE, Order.status == status) for status in statuses]
    kinds = {None: (OF_SALE, ORDINARY), True: (OF_SALE,), False: (ORDINARY,)}[asked.of_sale]
    if asked.product_id is None:
        return [_of_kind(asked, after, status, kind) for status in statuses for kind in kinds]
    of_product = Sale.product_id == asked.product_id
    found = [] if asked.of_sale is False else [_of_each(of_product, asked, after, status) for status in statuses]
    return found if asked.of_sale else [*found, _ordinary_of(asked)]


def _orders(*where: ColumnElement[bool]) -> Select[datetime, UUID]:
    return select(Order.reserved_at, Order.id).where(*where)


def _conditions(asked: OrderQuery) -> list[ColumnElement[bool]]:
    """All that is asked of an order itself."""
    equal = {Order.user_id: asked.user_id, Order.sale_id: asked.sale_id, Order.status: asked.status}
    found = [column == value for column, value in equal.items() if value is not None]
    if asked.of_sale is not None:
        found.append(OF_SALE if asked.of_sale else ORDINARY)
    if asked.replacement is not None:
        found.append(Order.replaces.is_not(None) if asked.replacement else Order.replaces.is_(None))
    if asked.product_id is not None and asked.sale_id is not None:
        found.append(select(Sale.id).where(Sale.id == asked.sale_id, Sale.product_id == asked.product_id).exists())
    elif asked.product_id is not None:
        line = select(OrderLine.line).where(OrderLine.order_id == Order.id, OrderLine.product_id == asked.product_id)
        found.append(line.exists())
    return found


def _of_kind(
    asked: OrderQuery, after: Position | None, status: OrderStatus, kind: ColumnElement[bool]
) -> Select[datetime, UUID]:
    """Purchases that are reserved are in no index of all sales, which each would be written into when it is recorded.

    A settled sale has none.
    """
    if kind is OF_SALE and status is OrderStatus.RESERVED:
        return _of_each(Sale.status.in_(ALIVE), asked, after, status)
    indexed = (NOT_RESERVED,) if kind is OF_SALE else ()
    return _orders(*_conditions(asked), kind, *indexed, Order.status == status)


def _of_each(
    sales_like: ColumnElement[bool], asked: OrderQuery, after: Position | None, status: OrderStatus
) -> Select[datetime, UUID]:
    """The newest orders of each of these sales. The lines need not be read."""
    where = _conditions(asked.model_copy(update={"product_id": None}))
    of_one = _orders(Order.sale_id == Sale.id, OF_SALE, Order.status == status, *where).correlate(Sale)
    newest_of_one = bounded(of_one, asked, after).lateral()
    columns: Any = newest_of_one.columns
    sales = select(columns.reserved_at, columns.id).select_from(Sale).join(newest_of_one, true())
    return sales.where(sales_like)


def _ordinary_of(asked: OrderQuery) -> Select[datetime, UUID]:
    """Ordinary orders of the product, whose lines know when they were made."""
    where = _conditions(asked.model_copy(update={"product_id": None, "of_sale": None}))
    query: Select[Any, UUID] = select(OrderLine.reserved_at, OrderLine.order_id)
    query = query.where(OrderLine.product_id == asked.product_id, ORDINARY_LINES)
    return query.join(Order, Order.id == OrderLine.order_id).where(ORDINARY, *where) if where else query
