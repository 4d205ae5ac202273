"""Which shop a database is, and whether the ledger in Redis is that shop's.

Sales are numbered from 1 in each database: a new sale 1 would find the ledger of another database's sale 1, sold out or
ended. A database is known by its salt of ordinary orders, which its migration makes once and every copy and restore of
the shop keeps; the ledger has what is derived from it, written by the controller that used it first.
"""

import hashlib
import time
from weakref import WeakKeyDictionary

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
# A database keeps its name; but behind the same address there may be another one, some time.
NAME_SECONDS = 5.0

# The name of each database, and until when it is taken for the same.
_names: WeakKeyDictionary[Database, tuple[str, float]] = WeakKeyDictionary()


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
    return owner is not None and not await _is_of(database, owner)


async def is_own(database: Database, client: aioredis.Redis) -> bool:
    """Whether this database's shop has claimed this Redis: only then may anything be recorded from it."""
    return await _is_of(database, await owner_of_ledger(client))


async def _is_of(database: Database, owner: str | None) -> bool:
    """Whether the owner is this database's shop, or the database has no schema. It is asked again before a "no"."""
    name, until = _names.get(database, (None, 0.0))
    if owner is not None and owner == name and time.monotonic() < until:
        return True
    until = time.monotonic() + NAME_SECONDS
    async with database.transaction() as session:
        name = await installation(session)
    if name is not None:
        _names[database] = (name, until)
    return name in (None, owner)


async def claim_ledger(database: Database, client: aioredis.Redis) -> None:
    """Note that this database's shop uses this Redis, unless another is noted."""
    async with database.transaction() as session:
        name = await installation(session)
    if name is not None:
        await client.set(KEY, name, nx=True)
