"""Holds that have run out, by Postgres time and nobody else's."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

import redis.asyncio as aioredis
from sqlalchemy import Select

from shop import metrics
from shop.database import Database
from shop.failure_isolation import Isolation, is_transient
from shop.faults import fault_point
from shop.orders import repository
from shop.orders.life import By, move_many
from shop.orders.models import OrderStatus
from shop.orders.release import owed_to_sales, release
from shop.orders.repository import Moved
from shop.settings import Settings


async def expire_due(
    database: Database, client: aioredis.Redis, settings: Settings, isolation: Isolation | None = None
) -> int:
    """Close orders that are due, in batches that skip what others have locked; returns how many.

    Sales come first and by themselves: they wait for nobody, while ordinary orders give their units back in the same
    transaction and may have to wait for a product. While the ledger takes the units of one batch back, Postgres closes
    the next. There is no cache here: the public may see a product as out of stock for up to `cache_ttl_seconds` after
    units of ordinary orders came back to it. `isolation` remembers the orders that cannot be closed.
    """
    isolation = isolation or Isolation("expiry", settings)
    of_sales = await _expire(database, client, settings, isolation, of_sales=True)
    return of_sales + await _expire(database, client, settings, isolation, of_sales=False)


async def _expire(
    database: Database, client: aioredis.Redis, settings: Settings, isolation: Isolation, *, of_sales: bool
) -> int:
    expired, giving_back = 0, None
    clock = asyncio.get_running_loop().time
    try:
        for _ in range(settings.expiry_batches_max):
            began = clock()
            closed = await _expire_batch(database, settings, isolation, of_sales=of_sales)
            expired += len(closed)
            if closed:
                fault_point(settings, "after_expiry")
            if giving_back is not None:
                await giving_back
            giving_back = asyncio.create_task(release(database, client, owed_to_sales(closed), settings))
            if len(closed) < settings.expiry_batch_max:
                break
            # As fast as the servers can is too fast: payments want them as well, and need them more.
            await asyncio.sleep(began + len(closed) / settings.expiry_per_second_max - clock())
    finally:
        if giving_back is not None:
            await giving_back
    return expired


async def _expire_batch(database: Database, settings: Settings, isolation: Isolation, *, of_sales: bool) -> list[Moved]:
    """Close what is due, or, where one order makes that fail, all others."""
    due = repository.due(settings.expiry_batch_max + isolation.count, of_sales=of_sales)

    async def close(orders: Sequence[UUID] | Select[UUID]) -> list[Moved]:
        async with database.transaction() as session:
            return await move_many(session, orders, OrderStatus.EXPIRED, by=By.SHOP, reason="the hold has run out")

    try:
        closed = await close(due)
    except Exception as error:
        if is_transient(error):
            raise
        async with database.transaction() as session:
            order_ids = (await session.scalars(due)).all()
        closed = await isolation.together(order_ids, close)
    metrics.EXPIRED.inc(len(closed))
    return closed
