"""All orders, for admins over HTTP and for the command line alike."""

from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from shop.errors import OrderNotFound
from shop.orders import repository as orders
from shop.orders.listing import repository
from shop.orders.listing.schemas import OrderAdminPage, OrderAdminRead, OrderQuery
from shop.orders.models import Order, OrderLine
from shop.orders.schemas import OrderLineRead
from shop.paging import cut


async def list_orders(session: AsyncSession, asked: OrderQuery) -> OrderAdminPage:
    """A page of all orders with their lines, in two queries. Raises Invalid for an unknown cursor."""
    found, has_more = cut(await repository.page(session, asked), asked.limit)
    return OrderAdminPage(data=await _reads(session, found), has_more=has_more)


async def read_order(session: AsyncSession, order_id: UUID) -> OrderAdminRead:
    """One order, whoever its buyer is. Raises OrderNotFound."""
    order = await orders.find_any(session, order_id)
    if order is None:
        raise OrderNotFound
    [read] = await _reads(session, [order])
    return read


async def _reads(session: AsyncSession, found: Sequence[Order]) -> list[OrderAdminRead]:
    lines: dict[UUID, list[OrderLine]] = defaultdict(list)
    for line in await orders.lines_of_each(session, [order.id for order in found]):
        lines[line.order_id].append(line)
    return [_read(order, lines[order.id]) for order in found]


def _read(order: Order, lines: Sequence[OrderLine]) -> OrderAdminRead:
    fields = OrderAdminRead.model_fields.keys() - {"object", "lines"}
    of_lines = OrderLineRead.model_fields.keys() - {"currency"}
    shown = [{**{name: getattr(line, name) for name in of_lines}, "currency": order.currency} for line in lines]
    return OrderAdminRead.model_validate({"lines": shown, **{name: getattr(order, name) for name in fields}})
