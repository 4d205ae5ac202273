"""Connections to Postgres that a process opens at its start and keeps: they are there when Postgres takes no more."""

import asyncio
from collections.abc import Mapping

import structlog

from shop.database import UNAVAILABLE_ERRORS, Database
from shop.stopping import sleep_or_stop

CHECK_SECONDS = 1.0

log = structlog.get_logger(__name__)


async def keep_connections(pools: Mapping[Database, int], stopping: asyncio.Event) -> None:
    """Keep so many connections of each pool open, until `stopping` is set; those that are lost are replaced."""
    healthy = True
    while not stopping.is_set():
        try:
            for database, number in pools.items():
                await database.keep_open(number)
            healthy = True
        except UNAVAILABLE_ERRORS as error:
            if healthy:
                log.warning("connections_not_kept", reason=repr(error)[:200])
            healthy = False
        await sleep_or_stop(stopping, CHECK_SECONDS)
