"""Holds that have run out, by Postgres time and nobody else's."""

import redis.asyncio as aioredis

from shop import metrics
from shop.database import Database
from shop.orders import repository
from shop.orders.release import release
from shop.settings import Settings


async def expire_due(database: Database, client: aioredis.Redis, settings: Settings) -> int:
    """Close orders that are due, in batches that skip what another worker has locked; returns how many."""
    expired = 0
    while True:
        async with database.transaction() as session:
            owed = await repository.expire_due(session, settings.expiry_batch_max)
        expired += len(owed)
        metrics.EXPIRED.inc(len(owed))
        await release(database, client, owed, settings)
        if len(owed) < settings.expiry_batch_max:
            return expired
