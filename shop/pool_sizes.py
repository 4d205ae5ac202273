"""How many connections to Postgres the whole shop may open, and how many Postgres has for it."""

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from shop.database import Database
from shop.settings import Settings

FOLLOWERS_POOL_MAX = 4
"""Connections of one API process for those of its tasks that follow what Postgres says."""
COMMANDS_POOL_MAX = 2
"""Connections of a `shop` command that is run beside the processes."""

# What is left of max_connections for an ordinary user, and the limits of this user and of this database (-1: none).
AVAILABLE = text(
    """
    SELECT LEAST(
        current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
            - COALESCE(current_setting('reserved_connections', true)::int, 0),
        (SELECT NULLIF(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user),
        (SELECT NULLIF(datconnlimit, -1) FROM pg_database WHERE datname = current_database())
    )
    """
)


log = structlog.get_logger(__name__)


class PoolsTooLarge(Exception):
    """The pools of one process alone are larger than what Postgres has for all of them."""


async def compare_pools(database: Database, settings: Settings, *, own: int, api_processes: int | None = None) -> None:
    """Say in the log whether the pools of all processes fit into what Postgres has, and what to do if they do not.

    `own` is what one process of the command that starts may open. Raises PoolsTooLarge when that can never fit.
    """
    wanted = connections_wanted(settings, api_processes=api_processes)
    async with database.transaction() as session:
        available = await connections_available(session)
    if own > available:
        raise PoolsTooLarge(
            f"one process may open {own} connections to Postgres, which has {available} for the shop:"
            " lower SHOP_DATABASE_POOL_MAX or SHOP_WORKER_POOL_MAX, or raise max_connections"
        )
    advice = shortage(wanted, available)
    if advice is None:
        log.info("postgres_connections", wanted=wanted, available=available)
    else:
        log.warning("postgres_connections_short", wanted=wanted, available=available, advice=advice)


def connections_wanted(settings: Settings, *, api_processes: int | None = None) -> int:
    """The sum of all pools: every API process, every worker (jobs and persisters), and one command."""
    processes = settings.api_instances * (api_processes or settings.api_processes)
    return processes * of_api(settings) + settings.worker_instances * of_worker(settings) + COMMANDS_POOL_MAX


def of_api(settings: Settings) -> int:
    """How many connections one API process may open."""
    return settings.database_pool_max + FOLLOWERS_POOL_MAX


def of_worker(settings: Settings) -> int:
    """How many connections one worker may open, for its jobs and for its persisters."""
    return 2 * settings.worker_pool_max


async def connections_available(session: AsyncSession) -> int:
    """How many connections Postgres takes from the shop's user, whoever has them now."""
    return int((await session.execute(AVAILABLE)).scalar_one())


def shortage(wanted: int, available: int) -> str | None:
    """What to do when the pools are larger than what Postgres has for them, else None."""
    if wanted <= available:
        return None
    return (
        f"the pools of all processes may open {wanted} connections to Postgres, which has {available} for them:"
        " lower SHOP_DATABASE_POOL_MAX, SHOP_WORKER_POOL_MAX or the number of processes, or raise max_connections"
    )
