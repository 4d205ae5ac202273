"""Whether a process can do its work: each server that it needs is asked, with a bound on the wait."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

import redis.asyncio as aioredis
import structlog
from sqlalchemy import text
from sqlalchemy.exc import TimeoutError as PoolTimeout

from shop.batching import Coalescer
from shop.database import DATABASE_ERRORS, Database, state_of
from shop.ledger_owner import ADVICE, FOREIGN, is_foreign
from shop.migrating import migrated
from shop.redis import connect, scripts_loaded
from shop.redis_requirements import ledger_problems
from shop.settings import Settings

CHECK_SECONDS = 2.0
ASKERS_MAX = 10_000
READ_ONLY = "Postgres is read-only: a standby, or a primary that has been told so"
# What the states of Postgres mean to a stranger; the more exact ones first.
IN_WORDS = {
    "25006": READ_ONLY,
    "57P01": "Postgres is stopping",
    "57P02": "Postgres is stopping",
    "57P03": "Postgres is starting or stopping",
    "53300": "Postgres takes no more connections",
    "53": "Postgres has no room left",
    "28": "Postgres does not let the shop in",
    "42501": "Postgres does not let the shop in",
    "3D": "the database is not there",
}

log = structlog.get_logger(__name__)


class Failing(NamedTuple):
    """Why a check fails: in words for everybody, and what was seen for whoever runs the shop."""

    reason: str
    detail: str


Checks = Mapping[str, Failing | None]
_logged: dict[str, Failing | None] = {}


async def readiness(database: Database, client: aioredis.Redis, settings: Settings) -> Checks:
    """Each check with None, or with why it fails."""
    return {
        "postgres": await _check("Postgres", lambda: _postgres(database)),
        "migrations": await _check("Postgres", lambda: _migrations(database)),
        "redis": await _check("Redis", lambda: _redis(client)),
        "scripts": await _check("Redis", lambda: _scripts(client)),
        "durability": await _check("Redis", lambda: _durability(database, client, settings)),
    }


class Readiness:
    """The checks of one process, made once for all who ask at the same time: a crowd of probes burdens no server."""

    def __init__(self, database: Database, client: aioredis.Redis, settings: Settings) -> None:
        async def check(askers: Sequence[None]) -> Sequence[Checks]:
            return [await readiness(database, client, settings)] * len(askers)

        self._coalescer: Coalescer[None, Checks] = Coalescer(
            check, batch_max=ASKERS_MAX, in_flight_max=1, queue_max=ASKERS_MAX
        )

    async def checks(self) -> Checks:
        """See `readiness`; they begin after the call. Raises NotSent when too many ask."""
        return await self._coalescer.ask(None)


async def readiness_of(settings: Settings, database: Database) -> Checks:
    """As `readiness`, for who has no client of the ledger."""
    ledger = connect(settings.redis_url, settings)
    try:
        return await readiness(database, ledger, settings)
    finally:
        await ledger.aclose(close_connection_pool=True)


def details(settings: Settings) -> tuple[bool, dict[str, object]]:
    """Whether all is well, and each check with what was seen; for who runs the shop, not for the public."""

    async def check() -> Checks:
        database = Database(settings, application_name="shop-readiness", pool_max=1)
        try:
            return await readiness_of(settings, database)
        finally:
            await database.close()

    return summary(asyncio.run(check()), Failing._asdict)


def summary(checks: Checks, describe: Callable[[Failing], object]) -> tuple[bool, dict[str, object]]:
    """Whether all is well, and the object that says so; `describe` tells of a check that fails."""
    ready = all(failing is None for failing in checks.values())
    shown = {name: "ok" if failing is None else describe(failing) for name, failing in checks.items()}
    return ready, {"status": "ready" if ready else "not ready", "checks": shown}


def log_changes(checks: Checks) -> None:
    """Tell the log what has begun to fail, or fails in another way; a stranger may ask as often as they like."""
    for name, failing in checks.items():
        if failing is not None and failing != _logged.get(name):
            log.warning("not_ready", check=name, reason=failing.reason, detail=failing.detail)
        _logged[name] = failing


async def _check(server: str, check: Callable[[], Awaitable[str | None]]) -> Failing | None:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            reason = await check()
        return None if reason is None else Failing(reason, reason)
    except Exception as error:  # noqa: BLE001 - whatever is wrong is the answer
        first_line = next(iter(str(error).splitlines()), "no answer")
        return Failing(_in_words(server, error), f"{type(error).__name__}: {first_line}"[:200])


def _in_words(server: str, error: Exception) -> str:
    state = state_of(error)
    if words := IN_WORDS.get(state) or IN_WORDS.get(state[:2]):
        return words
    if isinstance(error, PoolTimeout):
        return "all connections of this process are in use"
    if isinstance(error, TimeoutError):
        return f"no answer from {server} within {CHECK_SECONDS:g} s"
    return f"{server} cannot be reached"


async def _postgres(database: Database) -> str | None:
    async with database.transaction() as session:
        read_only = await session.execute(text("SELECT current_setting('transaction_read_only')::boolean"))
        return READ_ONLY if read_only.scalar_one() else None


async def _migrations(database: Database) -> str | None:
    async with database.transaction() as session:
        return None if await migrated(session) else "run `shop migrate`"


async def _redis(client: aioredis.Redis) -> None:
    await client.ping()


async def _scripts(client: aioredis.Redis) -> str | None:
    return None if await scripts_loaded(client) else "the worker has not loaded the scripts (is it running?)"


async def _durability(database: Database, client: aioredis.Redis, settings: Settings) -> str | None:
    found = await ledger_problems(client, settings)
    try:
        if await is_foreign(database, client):
            found.append(f"{FOREIGN}: {ADVICE}")
    except DATABASE_ERRORS:
        pass  # Postgres has a check of its own, which says so.
    return "; ".join(found) or None
