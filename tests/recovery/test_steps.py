"""Workers that are killed or stopped before each step of a recovery: the next one goes on, nobody does it twice."""

import asyncio
import signal
from pathlib import Path
from uuid import uuid4

import pytest
import redis.asyncio as aioredis
from sqlalchemy import select

from shop.database import Database
from shop.recovery import repository
from shop.sales.incidents.demand import recover
from shop.sales.incidents.models import ClaimOutcome, RecoveryClaim
from shop.sales.models import Sale
from shop.settings import Settings
from shop.worker import running_worker
from tests.crowd import Crowd
from tests.harness import TESTER, Shop
from tests.orders.holds import orders_of, sold_out_sale
from tests.processes import OwnShop, own_shop
from tests.recovery.losses import assert_kept, unfinished, until_recovered

RENEWING = ("fence", "compare", "load", "chunk", "mark", "honour", "batch", "open")
KEEPING = ("fence", "compare", "lift")
LATE_WORKERS = ("renew", "mark", "batch", "done")


async def promised(own: OwnShop, *, units: int = 40) -> tuple[Sale, Crowd]:
    """A sale with ten orders, three of which are not recorded yet, and no worker."""
    async with running_worker(own.shop.settings):
        sale = await own.shop.open_sale(units=units)
        crowd = await Crowd(own.shop, sale).run(buyers=7)
        await own.shop.drained(sale)
    return sale, await crowd.run(buyers=3)


async def goes_on(shop: Shop, sale: Sale, crowd: Crowd) -> None:
    """The sale sells, and everything that was ever promised is recorded once."""
    await crowd.run(buyers=5)
    assert len(crowd.orders) == 15
    await assert_kept(shop, sale, crowd.orders.values())


@pytest.mark.parametrize(("steps", "epoch"), [(RENEWING, 2), (KEEPING, 1)], ids=["renewing", "keeping"])
async def test_a_worker_killed_before_any_step_leaves_a_recovery_that_the_next_one_finishes(
    fresh_settings: Settings, tmp_path: Path, steps: tuple[str, ...], epoch: int
) -> None:
    """One recovery, one worker after the other, each killed at its step (I1-I6)."""
    async with own_shop(fresh_settings, tmp_path) as own:
        sale, crowd = await promised(own)
        if epoch == 1:
            await recover(own.shop.database, TESTER, sale.id)
        else:
            await own.shop.redis.flushall()
        for step in steps:
            own.processes.start_worker(step, SHOP_FAULT=f"kill_at_{step}")
            assert await own.processes.until_dead(step) == -signal.SIGKILL, own.processes.log(step)
        assert await unfinished(own.shop, sale) is not None

        async with running_worker(own.shop.settings):
            await until_recovered(own.shop, sale, epoch=epoch)
            await goes_on(own.shop, sale, crowd)


async def test_workers_stopped_in_the_middle_and_thawed_after_another_has_recovered_change_nothing(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """Every step is a comparison and a setting, and the loader has a token: who comes late finds that it is done."""
    async with own_shop(fresh_settings, tmp_path) as own:
        sale, crowd = await promised(own)
        await own.shop.redis.flushall()
        for step in LATE_WORKERS:
            own.processes.start_worker(step, SHOP_FAULT=f"stop_at_{step}")
            await own.processes.until_stopped(step)
        async with running_worker(own.shop.settings):
            await until_recovered(own.shop, sale, epoch=2)
            await crowd.run(buyers=2)
            for step in LATE_WORKERS:
                own.processes.send(step, signal.SIGCONT)
            await crowd.run(buyers=3)
            await goes_on_as_it_was(own, sale, crowd)


async def goes_on_as_it_was(own: OwnShop, sale: Sale, crowd: Crowd) -> None:
    """No other recovery has begun, and everything is recorded once, after the thawed workers have looked."""
    for step in LATE_WORKERS:
        own.processes.send(step, signal.SIGTERM)
        await own.processes.until_dead(step)
    row = await own.shop.row(sale)
    assert (row.epoch, row.recovery, row.alarm, len(crowd.orders)) == (2, 1, None, 15)
    await assert_kept(own.shop, sale, crowd.orders.values())


async def test_two_workers_recover_a_sale_once(fresh_settings: Settings, tmp_path: Path) -> None:
    """Both are at it all the time; each step is written by one of them."""
    async with own_shop(fresh_settings, tmp_path, worker_here=True) as own:
        own.processes.start_worker("other")
        sale = await own.shop.open_sale(units=40)
        crowd = Crowd(own.shop, sale)
        buying = asyncio.create_task(crowd.run(buyers=10))
        await crowd.until(5)
        await own.shop.redis.flushall()
        await buying

        await until_recovered(own.shop, sale, epoch=2)
        await crowd.run(buyers=5)
        await assert_kept(own.shop, sale, crowd.orders.values())


@pytest.mark.parametrize("step", ["mark", "batch", "open"])
async def test_a_loss_in_the_middle_of_a_recovery_is_recovered_too(
    fresh_settings: Settings, tmp_path: Path, step: str
) -> None:
    """Before the new ledger is marked it is built again; after that, the next recovery starts from its epoch."""
    async with own_shop(fresh_settings, tmp_path) as own:
        sale, crowd = await promised(own)
        await own.shop.redis.flushall()
        own.processes.start_worker("first", SHOP_FAULT=f"kill_at_{step}")
        await own.processes.until_dead("first")
        await own.shop.redis.flushall()

        async with running_worker(own.shop.settings):
            built_again = step == "mark"
            await until_recovered(own.shop, sale, epoch=2 if built_again else 3, recovery=1 if built_again else 2)
            await goes_on(own.shop, sale, crowd)


async def test_what_was_honoured_in_a_lost_ledger_is_open_again_unless_it_has_a_row(
    database: Database, redis: aioredis.Redis, settings: Settings
) -> None:
    """The row is the order; without one nothing but the claim remembers the promise."""
    shop = Shop(settings, database, redis, base_url="")
    sale = await sold_out_sale(shop, units=1)
    (recorded,) = await orders_of(shop, sale)
    lost = uuid4()
    claim = {"sale_id": sale.id, "epoch": 1, "seq": 1, "user_id": "ann", "quantity": 1, "source": "process"}
    async with database.transaction() as session:
        session.add_all(
            RecoveryClaim(**claim, order_id=order_id, outcome=ClaimOutcome.HONOURED) for order_id in (recorded.id, lost)
        )

    async with database.transaction() as session:
        await repository.reopen_claims(session, sale.id)

    async with database.transaction() as session:
        open_again = select(RecoveryClaim.order_id).where(
            RecoveryClaim.sale_id == sale.id, RecoveryClaim.outcome.is_(None)
        )
        assert list(await session.scalars(open_again)) == [lost]
