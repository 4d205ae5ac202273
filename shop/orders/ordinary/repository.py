"""What a buyer has open of ordinary orders, counted for one request of theirs after the other."""

from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from shop.orders.models import Order, OrderStatus

BUYERS_LOCK = 0x6275_7965  # tells these locks from those that others take on numbers


class OpenOrders(NamedTuple):
    """How many orders of a buyer are open, and the units that they hold."""

    orders: int
    units: int


async def lock_buyer(session: AsyncSession, user_id: str) -> None:
    """Let a buyer's requests for ordinary orders pass one by one, before they hold anything else.

    So none of two with one key misses the other's order, and all see what the buyer has open.
    """
    number = func.hashtextextended(user_id, BUYERS_LOCK)
    await session.execute(select(func.pg_advisory_xact_lock(number)))


async def count_open(session: AsyncSession, user_id: str) -> OpenOrders:
    """The ordinary orders of a buyer that are reserved and not paid."""
    query = select(func.count(), func.coalesce(func.sum(Order.quantity), 0)).where(
        Order.user_id == user_id, Order.sale_id.is_(None), Order.status == OrderStatus.RESERVED
    )
    return OpenOrders(*(await session.execute(query)).one())
