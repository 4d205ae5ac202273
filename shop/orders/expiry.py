"""Holds that have run out, by Postgres time and nobody else's."""

import redis.asyncio as aioredis

from shop import metrics
from shop.database import Database
from shop.orders import repository
from shop.orders.life import By, move
from shop.orders.models import OrderStatus
from shop.orders.release import owed_to_sales, release
from shop.settings import Settings


async def expire_due(database: Database, client: aioredis.Redis, settings: Settings) -> int:
    """Close orders that are due, in batches that skip what another worker has locked; returns how many.

    There is no cache here: the public may see a product as out of stock for up to `cache_ttl_seconds` after units of
    ordinary orders came back to it.
    """
    expired = 0
    while True:
        async with database.transaction() as session:
            due = repository.due(settings.expiry_batch_max)
            closed = await move(session, due, OrderStatus.EXPIRED, by=By.SHOP, reason="the hold has run out")
        expired += len(closed)
        metrics.EXPIRED.inc(len(closed))
        await release(database, client, owed_to_sales(closed), settings)
        if len(closed) < settings.expiry_batch_max:
            return expired
