"""Ordinary orders: products of the catalogue at its prices, without a sale, all lines or none.

Postgres alone decides. The units come from `products.stock`, and `shop.orders.life` gives them back when it closes the
order; in between the order lives as a sale's does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import redis.asyncio as aioredis
from sqlalchemy.ext.asyncio import AsyncSession

from shop.cache import Cache
from shop.errors import IdempotencyMismatch, Invalid, NotEnoughStock, ProductNotFound, TooManyOpenOrders
from shop.ledger.order_ids import keyed_order_id, replacing_order_id
from shop.orders import repository
from shop.orders.life import record_reserved
from shop.orders.models import Order
from shop.orders.ordinary import repository as ordinary
from shop.orders.schemas import OrderRead
from shop.orders.service import recorded
from shop.products import repository as products
from shop.products.models import Product
from shop.products.schemas import PRICE_MINOR_MAX, availability
from shop.products.service import forget_after_commit
from shop.rate_limit import RateLimiter, rate_limiter
from shop.seckill.requests import QUANTITY_MAX
from shop.settings import Settings

NO_SALE = 0
# As much as any sale's order may cost. It is far inside the eight bytes of the column.
TOTAL_MINOR_MAX = PRICE_MINOR_MAX * QUANTITY_MAX


@dataclass(frozen=True)
class Placed:
    """An order, and whether an earlier request made it."""

    order: OrderRead
    replayed: bool


def order_limiter(redis: aioredis.Redis, settings: Settings) -> RateLimiter:
    """Ordinary orders have the limits of purchases, and are counted by themselves."""
    return rate_limiter(
        redis, settings, name="order", rate_per_second=settings.purchase_rate_per_second, burst=settings.purchase_burst
    )


async def place(
    session: AsyncSession, cache: Cache, *, user_id: str, key: str, units: Mapping[int, int], settings: Settings
) -> Placed:
    """The order of `units` by product that this buyer's key means, made now unless it was made before.

    A repeat is answered from the rows of the order alone, whatever became of it and of its products. Everyone takes
    the same locks in the same order, the buyer's first and then the products', so nobody waits in a circle. Raises
    IdempotencyMismatch, TooManyOpenOrders, ProductNotFound, Invalid for several currencies or too large a total, or
    NotEnoughStock.
    """
    salt = await repository.ordinary_salt(session)
    order_id = UUID(bytes=keyed_order_id(NO_SALE, salt, user_id, key))
    await ordinary.lock_buyer(session, user_id)
    order = await repository.find(session, order_id, user_id)
    if order is not None:
        return Placed(await _repeat(session, order, units), replayed=True)
    offered = await _offered(session, units)
    total_minor = _total(offered, units)
    await _bound_open(session, user_id, sum(units.values()), settings)
    await _take(session, cache, offered, units)
    order = await repository.add_ordinary(
        session,
        [(product.id, units[product.id], product.price_minor) for product in offered],
        hold_seconds=settings.order_hold_seconds,
        id=order_id,
        user_id=user_id,
        quantity=sum(units.values()),
        total_minor=total_minor,
        currency=offered[0].currency,
    )
    await record_reserved(session, order)
    return Placed(await recorded(session, order), replayed=False)


async def place_again(session: AsyncSession, expired: Order, *, hold_seconds: int) -> Order | None:
    """A new order of what an expired one had, at the prices it had; None when the stock does not have all of it.

    The caller sees to it that this is done once.
    """
    found = await repository.lines(session, expired.id)
    units = {line.product_id: line.quantity for line in found}
    await products.lock(session, units)
    async with session.begin_nested() as all_or_none:
        if len(await products.take_from_each(session, units)) < len(units):
            await all_or_none.rollback()
            return None
    salt = await repository.ordinary_salt(session)
    return await repository.add_ordinary(
        session,
        [(line.product_id, line.quantity, line.price_minor) for line in found],
        hold_seconds=hold_seconds,
        id=UUID(bytes=replacing_order_id(NO_SALE, salt, expired.user_id, expired.id)),
        user_id=expired.user_id,
        quantity=expired.quantity,
        total_minor=expired.total_minor,
        currency=expired.currency,
    )


async def _repeat(session: AsyncSession, order: Order, units: Mapping[int, int]) -> OrderRead:
    found = await recorded(session, order)
    if {line.product_id: line.quantity for line in found.lines} != units:
        raise IdempotencyMismatch("This key was used before for other lines", order_id=str(order.id))
    return found


async def _bound_open(session: AsyncSession, user_id: str, units: int, settings: Settings) -> None:
    """Nobody holds the catalogue for nothing. Raises TooManyOpenOrders."""
    has = await ordinary.count_open(session, user_id)
    orders_max, units_max = settings.open_orders_per_user_max, settings.open_units_per_user_max
    if has.orders >= orders_max or has.units + units > units_max:
        raise TooManyOpenOrders(
            f"At most {orders_max} orders with {units_max} units together may wait for their payment",
            open_orders=has.orders,
            open_units=has.units,
        )


async def _offered(session: AsyncSession, units: Mapping[int, int]) -> list[Product]:
    """The products as the buyer named them, locked, so that their prices hold until the order is recorded."""
    found = {product.id: product for product in await products.lock(session, units)}
    for product_id in units:
        if product_id not in found or not found[product_id].published:
            raise ProductNotFound(product_id=product_id)
    return [found[product_id] for product_id in units]


def _total(offered: Sequence[Product], units: Mapping[int, int]) -> int:
    currencies = {product.currency for product in offered}
    if len(currencies) > 1:
        raise Invalid(
            f"The products of an order have one currency, not {' and '.join(sorted(currencies))}", pointer="/lines"
        )
    total = sum(product.price_minor * units[product.id] for product in offered)
    if total > TOTAL_MINOR_MAX:
        raise Invalid(f"The total of an order is at most {TOTAL_MINOR_MAX:,}", pointer="/lines")
    return total


async def _take(session: AsyncSession, cache: Cache, offered: Sequence[Product], units: Mapping[int, int]) -> None:
    """Take the units of every line. What the public sees of a product changes only with its availability."""
    taken = await products.take_from_each(session, units)
    for product in offered:
        if product.id not in taken:
            raise NotEnoughStock(product_id=product.id)
        if availability(product.stock) != availability(product.stock - units[product.id]):
            forget_after_commit(session, cache, product.id)
