"""Whether a process can do its work: each server that it needs is asked, with a bound on the wait."""

import asyncio
from collections.abc import Awaitable, Callable

import redis.asyncio as aioredis
from sqlalchemy import text

from shop.database import Database, migrated
from shop.redis import scripts_loaded
from shop.redis_demands import ledger_problems
from shop.settings import Settings

CHECK_SECONDS = 2.0


async def readiness(database: Database, client: aioredis.Redis, settings: Settings) -> dict[str, str | None]:
    """Each check with None, or with the reason why it fails."""
    return {
        "postgres": await _check(lambda: _postgres(database)),
        "migrations": await _check(lambda: _migrations(database)),
        "redis": await _check(lambda: _redis(client)),
        "scripts": await _check(lambda: _scripts(client)),
        "durability": await _check(lambda: _durability(client, settings)),
    }


async def _check(check: Callable[[], Awaitable[str | None]]) -> str | None:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await check()
    except TimeoutError:
        return f"no answer within {CHECK_SECONDS:g} s"
    except Exception as error:  # noqa: BLE001 - whatever is wrong is the answer
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no answer'}"[:200]


async def _postgres(database: Database) -> None:
    async with database.transaction() as session:
        await session.execute(text("SELECT 1"))


async def _migrations(database: Database) -> str | None:
    async with database.transaction() as session:
        return None if await migrated(session) else "run `shop migrate`"


async def _redis(client: aioredis.Redis) -> None:
    await client.ping()


async def _scripts(client: aioredis.Redis) -> str | None:
    return None if await scripts_loaded(client) else "the worker has not loaded the scripts (is it running?)"


async def _durability(client: aioredis.Redis, settings: Settings) -> str | None:
    return "; ".join(await ledger_problems(client, settings)) or None
