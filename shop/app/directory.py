"""Which sales this process sells: learned from the directory in Redis, and checked against Postgres first."""

import asyncio
import time

import redis.asyncio as aioredis
import structlog
from sqlalchemy.exc import DBAPIError

from shop import metrics
from shop.database import UNAVAILABLE_ERRORS, Database
from shop.installation import is_foreign
from shop.redis import CONNECTION_ERRORS, connections_in_use
from shop.sales import repository as sales
from shop.sales.models import SaleStatus
from shop.sales.recovery.demand import demand_recovery
from shop.seckill.group_commit import GroupCommit
from shop.seckill.lane import PurchaseLane
from shop.seckill.ledger import LastOrder, LoadedSale, RedisClock, read_directory
from shop.settings import Settings
from shop.stopping import rest

log = structlog.get_logger(__name__)


async def follow_directory(
    lane: PurchaseLane,
    database: Database,
    client: aioredis.Redis,
    settings: Settings,
    *,
    requests: Database,
    looked: asyncio.Event,
    stopping: asyncio.Event,
) -> None:
    """Hand each newly loaded (sale, epoch) to the lane, until `stopping` is set; `looked` tells the first look.

    `requests` is the pool of those who are served, for the metrics.

    The last order that Postgres has recorded goes with it: a ledger that does not know that order was rolled back.
    """
    clock = RedisClock()
    healthy, foreign, look_at = True, False, 0.0
    while not stopping.is_set():
        try:
            if time.monotonic() >= look_at:
                foreign = await is_foreign(database, client)
                look_at = time.monotonic() + settings.beat_seconds
            if foreign:
                for group in lane.groups:
                    lane.leave(group)
            for loaded in () if foreign else await read_directory(client, clock):
                if loaded.epoch > lane.epoch_of(loaded.sale_id):
                    await _take(lane, database, client, loaded, clock, settings)
            await _report_rolled_back(lane, database, client)
            healthy = True
        except (*UNAVAILABLE_ERRORS, *CONNECTION_ERRORS, DBAPIError) as error:
            if healthy:
                log.warning("directory_waits", reason=repr(error)[:200])
            healthy = False
        looked.set()
        _report_pools(requests, client)  # Also while a server is away: that is when the numbers are looked at.
        await rest(stopping, settings.directory_poll_seconds)


async def follow_latches(lane: PurchaseLane, settings: Settings, stopping: asyncio.Event) -> None:
    """Re-open the latches of sales that have units again, and show what the lane has counted; until `stopping`."""
    while not stopping.is_set():
        lane.tally.flush()
        await lane.poll_latches()
        await rest(stopping, settings.latch_poll_seconds)


async def _take(
    lane: PurchaseLane,
    database: Database,
    client: aioredis.Redis,
    loaded: LoadedSale,
    clock: RedisClock,
    settings: Settings,
) -> None:
    async with database.transaction() as session:
        sale = await sales.find(session, loaded.sale_id)
        last = await sales.last_reserved(session, loaded.sale_id, loaded.epoch)
    if sale is None or sale.epoch != loaded.epoch or sale.status == SaleStatus.DRAFT:
        return
    if sale.salt != loaded.salt:
        return  # Another database's sale of the same number.
    known = LastOrder(last[0].bytes, last[1]) if last else LastOrder(b"", 0)
    lane.take(GroupCommit(client, loaded, last=known, clock=clock, limiter=lane.limiter, settings=settings))


async def _report_rolled_back(lane: PurchaseLane, database: Database, client: aioredis.Redis) -> None:
    """Close the sales whose ledger forgot an order that this process has promised, for every process."""
    while lane.rolled_back:
        sale_id, epoch = next(iter(lane.rolled_back))
        async with database.transaction() as session:
            sale = await sales.find(session, sale_id)
        if sale is not None and sale.epoch == epoch:
            reason = "the ledger has lost an order that was accepted"
            await demand_recovery(database, client, sale, reason, may_load=False, renew=True)
        lane.rolled_back.discard((sale_id, epoch))


def _report_pools(database: Database, client: aioredis.Redis) -> None:
    metrics.POOL_IN_USE.labels("postgres").set(database.connections_in_use)
    metrics.POOL_IN_USE.labels("redis").set(connections_in_use(client))
