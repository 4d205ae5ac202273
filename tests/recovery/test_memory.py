"""A process remembers its reservations until they are persisted, or until they are reported, and not for ever."""

from pathlib import Path

import redis.asyncio as aioredis

from shop.app.heartbeat import _report
from shop.database import Database
from shop.ledger.client import LastOrder, RedisClock, ReserveRequest
from shop.pipelined import PipelinedConnection
from shop.sales.incidents.repository import Live
from shop.seckill.group_commit import GroupCommit
from shop.settings import Settings
from shop.worker import running_worker
from tests.harness import new_user_id
from tests.lua.ledgers import open_ledger, order_id
from tests.processes import copy_of, frozen, own_shop
from tests.recovery.losses import assert_kept, until_recovered, until_sold


async def a_group(redis: aioredis.Redis, settings: Settings) -> GroupCommit:
    ledger = await open_ledger(redis, available=10)
    return GroupCommit(
        PipelinedConnection(redis), ledger.sale, last=LastOrder(b"", 0), clock=RedisClock(), settings=settings
    )


async def test_a_process_forgets_a_promise_when_postgres_has_it(settings: Settings, redis: aioredis.Redis) -> None:
    """What is at or below the watermark is gone; a repeat of what is above it is remembered: it was promised too."""
    group = await a_group(redis, settings)
    for number in (1, 2, 3, 3):
        await group.reserve(ReserveRequest(order_id(number), f"buyer{number}", 1))
    assert [answer.seq for _, answer in group.unpersisted] == [1, 2, 3, 3]

    group.forget(2)
    await group.reserve(ReserveRequest(order_id(1), "buyer1", 1))
    assert [answer.seq for _, answer in group.unpersisted] == [3, 3]
    group.reported(2)
    assert (group.unpersisted, group.highest_seq) == ((), 3)


async def test_a_process_forgets_nothing_while_its_ledger_is_in_question(
    database: Database, redis: aioredis.Redis, settings: Settings
) -> None:
    """What was recorded since a rollback has the numbers of what was promised before it."""
    group = await a_group(redis, settings)
    for number in (1, 2, 3):
        await group.reserve(ReserveRequest(order_id(number), f"buyer{number}", 1))
    sale = group.sale

    await _report(database, {sale.sale_id: Live(sale.epoch, 2, recovering=True)}, set(), group)
    assert [answer.seq for _, answer in group.unpersisted] == [1, 2, 3]
    await _report(database, {sale.sale_id: Live(sale.epoch, 2, recovering=False)}, set(), group)
    assert [answer.seq for _, answer in group.unpersisted] == [3]


async def test_a_process_remembers_no_more_than_may_be_unpersisted(settings: Settings, redis: aioredis.Redis) -> None:
    """The memory is bounded by the backlog; the oldest go first."""
    group = await a_group(redis, copy_of(settings, backlog_max=2))
    for number in (1, 2, 3):
        await group.reserve(ReserveRequest(order_id(number), f"buyer{number}", 1))

    assert [answer.seq for _, answer in group.unpersisted] == [2, 3]


async def test_a_process_that_slept_through_the_recovery_reports_what_it_had(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """It was waited for in vain; what it brings later is honoured like a receipt (I6)."""
    async with own_shop(copy_of(fresh_settings, recovery_answer_seconds=0.3), tmp_path) as own:
        shop = own.shop
        through = own.through(await own.processes.start_api("sleeper"))
        async with running_worker(shop.settings):
            sale = await shop.open_sale(units=5)
            await through.until_loaded(sale)
        promised = [await until_sold(through, sale, new_user_id()) for _ in range(2)]
        with frozen(own.processes.running["sleeper"].pid):
            await shop.redis.flushall()
            async with running_worker(shop.settings):
                await until_recovered(shop, sale, epoch=2)
        async with running_worker(shop.settings):
            await assert_kept(shop, sale, promised)
        await (await through.client()).aclose()
