"""Which shop a database is, and whether the ledger in Redis is that shop's.

Sales are numbered from 1 in each database: a new sale 1 would find the ledger of another database's sale 1, sold out or
ended. A database is known by its salt of ordinary orders, which its migration makes once and every copy and restore of
the shop keeps; the ledger has what is derived from it, written by the controller that used it first.
"""

import hashlib

import redis.asyncio as aioredis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from shop.database import Database

KEY = "shop:installation"
FOREIGN = "the ledger belongs to another database"
ADVICE = (
    "restore the database that it belongs to, or name another, empty Redis with SHOP_REDIS_URL; only when nobody needs"
    " that ledger any more, empty this one with FLUSHDB"
)


async def installation(session: AsyncSession) -> str | None:
    """The name of this shop, which tells nothing of the salt; None in a database without a schema."""
    salt = (await session.execute(text("SELECT salt FROM order_salts WHERE id = 0"))).scalar_one_or_none()
    return None if salt is None else hashlib.sha256(b"installation\0" + bytes(salt)).hexdigest()[:32]


async def owner_of_ledger(client: aioredis.Redis) -> str | None:
    """The shop that uses this Redis; None when none has, or only an older release."""
    found = await client.get(KEY)
    return None if found is None else bytes(found).decode()


async def is_foreign(database: Database, client: aioredis.Redis) -> bool:
    """Whether another database's shop uses this Redis."""
    owner = await owner_of_ledger(client)
    if owner is None:
        return False
    async with database.transaction() as session:
        return await installation(session) not in (None, owner)


async def is_own(database: Database, client: aioredis.Redis) -> bool:
    """Whether this database's shop has claimed this Redis: only then may anything be recorded from it."""
    owner = await owner_of_ledger(client)
    async with database.transaction() as session:
        return await installation(session) in (None, owner)


async def claim_ledger(database: Database, client: aioredis.Redis) -> None:
    """Note that this database's shop uses this Redis, unless another is noted."""
    async with database.transaction() as session:
        name = await installation(session)
    if name is not None:
        await client.set(KEY, name, nx=True)
