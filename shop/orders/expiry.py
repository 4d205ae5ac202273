"""Holds that have run out, by Postgres time and nobody else's."""

import redis.asyncio as aioredis

from shop import metrics
from shop.database import Database
from shop.orders import repository
from shop.orders.life import By, move
from shop.orders.models import OrderStatus
from shop.orders.release import release
from shop.orders.repository import Owed
from shop.settings import Settings


async def expire_due(database: Database, client: aioredis.Redis, settings: Settings) -> int:
    """Close orders that are due, in batches that skip what another worker has locked; returns how many."""
    expired = 0
    while True:
        async with database.transaction() as session:
            due = repository.due(settings.expiry_batch_max)
            closed = await move(session, due, OrderStatus.EXPIRED, by=By.SHOP, reason="the hold has run out")
            owed = [Owed(order.id, order.sale_id or 0, order.seq or 0) for order in closed]
        expired += len(owed)
        metrics.EXPIRED.inc(len(owed))
        await release(database, client, owed, settings)
        if len(owed) < settings.expiry_batch_max:
            return expired
