"""The life of an order in one place: which status follows which, and the one way to move it, alone or in a batch.

reserved ─► paid ─► refunded          reserved ─► cancelled | expired

A move is a compare-and-set: whoever comes second finds that the order is elsewhere. A closed order never comes back.
Each move is recorded in its own transaction as an `OrderEvent`, and announced when that is committed. So is the
reservation of an ordinary order by its buyer; a purchase writes no event: the ledger tells of it.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from uuid import UUID

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncSession

from shop.orders import repository
from shop.orders.announcing import announce_after_commit
from shop.orders.models import Order, OrderStatus
from shop.orders.repository import Moved
from shop.products import repository as products

COMES_FROM: Mapping[OrderStatus, OrderStatus] = {
    OrderStatus.PAID: OrderStatus.RESERVED,
    OrderStatus.CANCELLED: OrderStatus.RESERVED,
    OrderStatus.EXPIRED: OrderStatus.RESERVED,
    OrderStatus.REFUNDED: OrderStatus.PAID,
}
# The units of such an order are owed to the sale or the product. Those of a refunded one may be kept.
CLOSED = frozenset({OrderStatus.CANCELLED, OrderStatus.EXPIRED})


class By(StrEnum):
    """Who moved an order."""

    BUYER = "buyer"
    SHOP = "shop"
    ADMIN = "admin"
    PROVIDER = "provider"


async def note(session: AsyncSession, order_id: UUID, word: str, *, reason: str) -> None:
    """Tell the buyer in the order's timeline what the shop has done about it; its status stays."""
    await repository.add_events(session, [order_id], status=word, moved_by=By.SHOP, reason=reason)
    announce_after_commit(session, [order_id])


async def record_reserved(session: AsyncSession, order: Order) -> None:
    """Note that an ordinary order was made, in the transaction that makes it."""
    await repository.add_events(
        session, [order.id], status=OrderStatus.RESERVED, moved_by=By.BUYER, reason="asked for by the buyer"
    )


async def move(
    session: AsyncSession,
    orders: Sequence[UUID] | Select[UUID],
    to: OrderStatus,
    *,
    by: By,
    reason: str,
    closes: bool | None = None,
) -> list[Order]:
    """Move these orders, as far as `to` may follow where they are now; returns the ones that were moved.

    `closes` tells whether their units are owed from now on; by default they are when an order is cancelled or expires.
    What is owed to a sale goes back through its ledger (`shop.orders.release`). What an ordinary order took from the
    stock goes back here and now, once, because it is moved once (I8).
    """
    closes = to in CLOSED if closes is None else closes
    moved = await repository.set_status(session, orders, before=COMES_FROM[to], after=to, closes=closes)
    await _follow(session, moved, to, by=by, reason=reason, closes=closes)
    return moved


async def move_many(
    session: AsyncSession, orders: Sequence[UUID] | Select[UUID], to: OrderStatus, *, by: By, reason: str
) -> list[Moved]:
    """As `move`, for a whole batch, of which only the little is read that is needed to give the units back."""
    closes = to in CLOSED
    moved = await repository.set_status_of_many(session, orders, before=COMES_FROM[to], after=to, closes=closes)
    await _follow(session, moved, to, by=by, reason=reason, closes=closes)
    return moved


async def _follow(
    session: AsyncSession, moved: Sequence[Order | Moved], to: OrderStatus, *, by: By, reason: str, closes: bool
) -> None:
    """What belongs to every move: its event, and the units of ordinary orders."""
    if moved:
        await repository.add_events(session, [order.id for order in moved], status=to, moved_by=by, reason=reason)
        announce_after_commit(session, [order.id for order in moved])
    ordinary = [order.id for order in moved if order.sale_id is None]
    if closes and ordinary:
        await products.give_to_each(session, repository.units_of(ordinary))
