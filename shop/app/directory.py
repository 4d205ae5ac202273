"""Which sales this process sells: learned from the directory in Redis, and checked against Postgres first."""

import asyncio
import time
from collections.abc import Sequence
from functools import partial

import redis.asyncio as aioredis
import structlog

from shop import metrics
from shop.database import Database
from shop.failure_isolation import SERVER_ERRORS, Isolation
from shop.ledger.client import LastOrder, LoadedSale, RedisClock, read_directory
from shop.ledger_owner import is_foreign
from shop.pipelined import PipelinedConnection
from shop.redis import connections_in_use
from shop.sales import repository as sales
from shop.sales.incidents.demand import demand_recovery
from shop.sales.models import SaleStatus
from shop.seckill.group_commit import GroupCommit
from shop.seckill.registry import Registry
from shop.seckill.tally import Tally
from shop.settings import Settings
from shop.stopping import sleep_or_stop

log = structlog.get_logger(__name__)


async def follow_directory(
    registry: Registry,
    database: Database,
    client: aioredis.Redis,
    settings: Settings,
    *,
    scripts: PipelinedConnection,
    requests: Database,
    first_read: asyncio.Event,
    stopping: asyncio.Event,
) -> None:
    """Hand each newly loaded (sale, epoch) to the lane, until `stopping` is set; set `first_read` after the first read.

    The sales are bought through `scripts`. `requests` is the pool of those who are served, for the metrics.

    The last order that Postgres has recorded goes with it: a ledger that does not know that order was rolled back.
    """
    clock, isolation = RedisClock(), Isolation("directory", settings)
    adopt = partial(_adopt, registry, database, scripts, clock, settings)
    report = partial(_report_rolled_back, registry, database, client)
    healthy, foreign, check_at = True, False, 0.0
    while not stopping.is_set():
        try:
            with metrics.watched("redis"):
                listed = await read_directory(client, clock)
            if time.monotonic() >= check_at:
                foreign = await is_foreign(database, client)
                check_at = time.monotonic() + settings.heartbeat_seconds
            if foreign:
                listed = []
                for group in registry.groups:
                    registry.leave(group)
            new = [loaded for loaded in listed if loaded.epoch > registry.epoch_of(loaded.sale_id)]
            await isolation.each(new, adopt, key=lambda loaded: loaded.sale_id)
            await isolation.each(tuple(registry.rolled_back), report)
            healthy = True
        except SERVER_ERRORS as error:
            if healthy:
                log.warning("directory_waits", reason=repr(error)[:200])
            healthy = False
        first_read.set()
        _report_pools(requests, client)  # Also while a server is away: that is when the numbers are needed.
        await sleep_or_stop(stopping, settings.directory_poll_seconds)


async def follow_latches(
    registry: Registry, tallies: Sequence[Tally], settings: Settings, stopping: asyncio.Event
) -> None:
    """Re-open the latches of sales that have units again, and show what was counted; until `stopping`."""
    isolation = Isolation("latches", settings)
    while not stopping.is_set():
        for tally in tallies:
            tally.flush()
        # A copy: a sale may be adopted while a poll waits.
        await isolation.each(registry.groups, lambda group: group.latch.poll(), key=lambda group: group.sale.sale_id)
        await sleep_or_stop(stopping, settings.latch_poll_seconds)


async def _adopt(
    registry: Registry,
    database: Database,
    scripts: PipelinedConnection,
    clock: RedisClock,
    settings: Settings,
    loaded: LoadedSale,
) -> None:
    async with database.transaction() as session:
        sale = await sales.find(session, loaded.sale_id)
        last = await sales.last_reserved(session, loaded.sale_id, loaded.epoch)
    if sale is None or sale.epoch != loaded.epoch or sale.status == SaleStatus.DRAFT:
        return
    if sale.salt != loaded.salt:
        return  # Another database's sale of the same number.
    known = LastOrder(last[0].bytes, last[1]) if last else LastOrder(b"", 0)
    registry.adopt(GroupCommit(scripts, loaded, last=known, clock=clock, settings=settings))


async def _report_rolled_back(
    registry: Registry, database: Database, client: aioredis.Redis, rolled_back: tuple[int, int]
) -> None:
    """Close a sale whose ledger forgot an order that this process has promised, for every process."""
    sale_id, epoch = rolled_back
    async with database.transaction() as session:
        sale = await sales.find(session, sale_id)
    if sale is not None and sale.epoch == epoch:
        reason = "the ledger has lost an order that was accepted"
        await demand_recovery(database, client, sale, reason, may_load=False, renew=True)
    registry.rolled_back.discard(rolled_back)


def _report_pools(database: Database, client: aioredis.Redis) -> None:
    metrics.POOL_IN_USE.labels("postgres").set(database.connections_in_use)
    metrics.POOL_WAITING.labels("postgres").set(database.callers_waiting)
    metrics.POOL_IN_USE.labels("redis").set(connections_in_use(client))
