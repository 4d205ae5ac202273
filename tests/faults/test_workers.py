"""Workers that are killed or stopped at the worst moment: every accepted order still has exactly one row."""

import asyncio
import signal
from pathlib import Path

from sqlalchemy import text

from shop import metrics
from shop.orders.persister import APPLICATION_NAME, Persister
from shop.sales import repository
from shop.settings import Settings
from shop.worker import Context, running_worker
from tests.crowd import Crowd, assert_each_recorded_once, ids_of
from tests.harness import Shop, wait_until
from tests.processes import copy_of, own_shop

GRACE_SECONDS = 5.0
HEALED_SECONDS = 30.0


async def persister_backends(shop: Shop) -> int:
    """How many connections persisters have to this shop's database."""
    async with shop.database.transaction() as session:
        counted = await session.execute(
            text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = :name"
            ),
            {"name": APPLICATION_NAME},
        )
        return int(counted.scalar_one())


async def test_a_worker_killed_before_the_commit_loses_nothing(fresh_settings: Settings, tmp_path: Path) -> None:
    """Nothing is acknowledged before the rows are there: the next worker reads the same entries (F8, F10)."""
    async with own_shop(fresh_settings, tmp_path) as own:
        async with running_worker(own.shop.settings):
            sale = await own.shop.open_sale(units=20)
        answers = await asyncio.gather(*(own.shop.buy(sale) for _ in range(30)))
        own.processes.start_worker("first", SHOP_FAULT="before_commit")  # it has them all in one batch

        assert await own.processes.until_dead("first") == -signal.SIGKILL
        assert (await own.shop.row(sale)).watermark == 0

        async with running_worker(own.shop.settings):
            await assert_each_recorded_once(own.shop, sale, ids_of(answers))
            assert (await own.shop.row(sale)).epoch == 1, (
                "the entries were lost, and a recovery brought the orders back"
            )


async def test_a_worker_killed_between_commit_and_trim_doubles_nothing(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """The watermark is in the transaction of the rows, so the next worker drops what is recorded (F10, faults 2)."""
    async with own_shop(fresh_settings, tmp_path) as own:
        own.processes.start_worker("first", SHOP_FAULT="after_commit")
        sale = await own.shop.open_sale(units=20)
        answers = await asyncio.gather(*(own.shop.buy(sale) for _ in range(30)))

        assert await own.processes.until_dead("first") == -signal.SIGKILL
        assert (await own.shop.row(sale)).watermark > 0

        async with running_worker(own.shop.settings):
            await assert_each_recorded_once(own.shop, sale, ids_of(answers))


async def test_a_worker_stopped_in_mid_batch_does_not_hold_up_the_sale(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """Its transaction is idle, so Postgres ends it; thawed, the worker begins anew and doubles nothing (I12)."""
    settings = copy_of(fresh_settings, persist_idle_in_transaction_seconds=1.5, persist_lock_wait_seconds=60)
    async with own_shop(settings, tmp_path) as own:
        own.processes.start_worker("first", SHOP_FAULT="stop_in_batch")
        sale = await own.shop.open_sale(units=40)
        orders = set(await asyncio.gather(*(own.shop.bought(sale) for _ in range(20))))
        await own.processes.until_stopped("first")
        async with running_worker(own.shop.settings):
            await assert_each_recorded_once(own.shop, sale, orders)

            own.processes.send("first", signal.SIGCONT)
            await own.processes.until_said("first", "batch_waits")
            orders |= set(await asyncio.gather(*(own.shop.bought(sale) for _ in range(20))))
            await assert_each_recorded_once(own.shop, sale, orders)
            assert len(orders) == 40


async def test_a_worker_stopped_inside_copy_does_not_hold_up_the_sale(fresh_settings: Settings, tmp_path: Path) -> None:
    """It is neither idle nor cancellable, so the one who waits ends it; all within 15 s (I12, design §2)."""
    async with own_shop(fresh_settings, tmp_path) as own:
        own.processes.start_worker("first", SHOP_FAULT="stop_in_copy")
        sale = await own.shop.open_sale(units=40)
        orders = set(await asyncio.gather(*(own.shop.bought(sale) for _ in range(20))))
        await own.processes.until_stopped("first")
        async with running_worker(own.shop.settings), asyncio.timeout(HEALED_SECONDS):
            await assert_each_recorded_once(own.shop, sale, orders)

            own.processes.send("first", signal.SIGCONT)
            await own.processes.until_said("first", "batch_waits")
            orders |= set(await asyncio.gather(*(own.shop.bought(sale) for _ in range(20))))
            await assert_each_recorded_once(own.shop, sale, orders)
            assert len(orders) == 40


async def test_a_batch_that_cannot_get_the_row_is_given_up_in_time_and_tried_again(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """Whoever holds it may be no worker, and is not ended; once the row is free, the drain goes on at once (I12)."""
    settings = copy_of(fresh_settings, persist_timeout_seconds=0.6, persist_lock_wait_seconds=0.2)
    async with own_shop(settings, tmp_path, worker_here=True) as own:
        sale = await own.shop.open_sale(units=1)
        given_up = metrics.PERSIST_FAILURES.labels("unavailable")._value

        async def three_times() -> bool:
            return bool(given_up.get() >= before + 3)

        async with own.shop.database.transaction() as session:
            await repository.lock(session, sale.id)
            before = given_up.get()
            answer = await own.shop.buy(sale)
            await wait_until(three_times, within=GRACE_SECONDS, reason="the batch was given up three times")
        async with asyncio.timeout(GRACE_SECONDS):
            await assert_each_recorded_once(own.shop, sale, ids_of([answer]))


async def test_a_worker_that_is_killed_and_replaced_in_mid_sale_costs_no_buyer_anything(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """Buyers do not need the worker; whatever it left is recorded by the next one (I6, F3)."""
    async with own_shop(fresh_settings, tmp_path) as own:
        own.processes.start_worker("first")
        sale = await own.shop.open_sale(units=300)
        crowd = Crowd(own.shop, sale)
        buying = asyncio.create_task(crowd.run(buyers=400))

        await crowd.until(100)
        own.processes.send("first", signal.SIGKILL)
        await crowd.until(200)
        async with running_worker(own.shop.settings):
            await buying
            assert (crowd.finals["reserved"], crowd.finals["sold_out"], crowd.passing) == (300, 100, {})
            await assert_each_recorded_once(own.shop, sale, crowd.orders.values())


async def test_workers_beside_each_other_record_each_order_once(fresh_settings: Settings, tmp_path: Path) -> None:
    """Two workers, in one of them the same sale twice: whoever comes second finds the watermark moved (faults 24)."""
    async with own_shop(fresh_settings, tmp_path, worker_here=True) as own:
        own.processes.start_worker("other")
        sale = await own.shop.open_sale(units=300)
        context = Context.connect(own.shop.settings)
        twin = Persister(context.persist_database, context.ledger, sale.id, context.settings, context.stopping)
        draining = asyncio.create_task(twin.run())

        async def three_persisters() -> bool:
            return await persister_backends(own.shop) >= 3

        await wait_until(three_persisters, reason="three persisters are at work")
        crowd = await Crowd(own.shop, sale).run(buyers=400, queues=20)
        await assert_each_recorded_once(own.shop, sale, crowd.orders.values())
        assert len(crowd.orders) == 300
        assert not draining.done()
        assert "poisoned" not in own.processes.log("other")
        context.stopping.set()
        await draining
        await context.close()


async def test_a_persister_that_slept_drops_what_another_has_recorded(fresh_settings: Settings, tmp_path: Path) -> None:
    """It compares the watermark under the lock, and records only what is above it (F47)."""
    async with own_shop(fresh_settings, tmp_path) as own:
        async with running_worker(own.shop.settings):
            sale = await own.shop.open_sale(units=5)
        context = Context.connect(own.shop.settings)
        late, other = (
            Persister(context.persist_database, context.ledger, sale.id, context.settings, context.stopping)
            for _ in range(2)
        )
        assert await late.step()  # From now on it knows where Postgres is, and it knows no better when it wakes up.
        answers = [await own.shop.buy(sale)]
        assert await other.step()
        answers.append(await own.shop.buy(sale))

        assert await late.step()

        await assert_each_recorded_once(own.shop, sale, ids_of(answers))
        await context.close()


async def test_sigterm_lets_a_worker_finish_the_batch_in_hand(fresh_settings: Settings, tmp_path: Path) -> None:
    """A rolling restart leaves no batch half done and takes a few seconds at most (faults 33)."""
    async with own_shop(fresh_settings, tmp_path) as own:
        worker = own.processes.start_worker("worker", SHOP_FAULT="stop_in_batch")
        sale = await own.shop.open_sale(units=20)
        assert (await own.shop.buy(sale)).status_code == 202
        await own.processes.until_stopped("worker")
        assert (await own.shop.row(sale)).watermark == 0

        worker.send_signal(signal.SIGTERM)
        worker.send_signal(signal.SIGCONT)

        assert await own.processes.until_dead("worker", within=GRACE_SECONDS) == 0
        assert (await own.shop.row(sale)).watermark == 1
