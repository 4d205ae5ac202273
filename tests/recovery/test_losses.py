"""Redis loses something, and the sale goes on by itself: nothing is sold twice, nothing that was promised is lost."""

import asyncio
from pathlib import Path

import pytest

from shop.ledger.keys import ledger_keys
from shop.redis import load_scripts
from shop.sales.incidents.demand import recover
from shop.settings import Settings
from shop.worker import running_worker
from tests.crowd import Crowd
from tests.harness import TESTER, new_user_id, outcome, wait_until
from tests.processes import own_shop
from tests.recovery.losses import assert_kept, keep_copy, put_back, unfinished, until_recovered, until_sold

NOTICED_SECONDS = 5.0


async def test_a_flushed_sale_goes_on_in_a_new_epoch_and_sells_what_is_left(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """All of it was recorded, so nothing is held back; the winners keep what they have (I4, I5, I6, faults 5)."""
    async with own_shop(fresh_settings, tmp_path, worker_here=True) as own:
        shop = own.shop
        sale = await shop.open_sale(units=50)
        crowd = await Crowd(shop, sale).run(buyers=10)
        await assert_kept(shop, sale, crowd.orders.values())

        await shop.redis.flushall()
        row = await until_recovered(shop, sale, epoch=2)
        assert (row.held_back, row.watermark_balance) == (0, 40)
        assert await shop.redis.exists(*ledger_keys(sale.id, 1)) == 0

        winner, order_id = next(iter(crowd.orders.items()))
        assert await until_sold(shop, sale, winner, key=f"key-of-{winner}") == order_id

        async def has_enough() -> bool:  # A repeat is answered from its row before the process knows the new epoch.
            return outcome(await shop.buy(sale, winner, key="another")) == "over_limit"

        await wait_until(has_enough, reason="the limit is known again")
        await crowd.run(buyers=60)
        assert (len(crowd.orders), crowd.finals["sold_out"]) == (50, 20)
        await assert_kept(shop, sale, crowd.orders.values())


async def test_a_sale_that_is_flushed_in_mid_sale_keeps_every_promise(fresh_settings: Settings, tmp_path: Path) -> None:
    """What was not recorded yet is known by the processes that promised it, and honoured before anybody else buys."""
    async with own_shop(fresh_settings, tmp_path, worker_here=True) as own:
        shop = own.shop
        sale = await shop.open_sale(units=300)
        crowd = Crowd(shop, sale)
        buying = asyncio.create_task(crowd.run(buyers=200, queues=16))
        await crowd.until(60)
        await shop.redis.flushall()
        await buying

        row = await until_recovered(shop, sale, epoch=2)
        assert (len(crowd.orders), row.units_taken <= 300) == (200, True)
        await assert_kept(shop, sale, crowd.orders.values())


async def test_a_restart_that_lost_nothing_keeps_the_epoch(fresh_settings: Settings, tmp_path: Path) -> None:
    """A new run of Redis means that it is compared, not that it is lost (faults 3)."""
    async with own_shop(fresh_settings, tmp_path, worker_here=True) as own:
        sale = await own.shop.open_sale(units=50)
        crowd = await Crowd(own.shop, sale).run(buyers=10)
        own.valkey.kill()
        await asyncio.to_thread(own.valkey.start)

        await until_recovered(own.shop, sale, epoch=1)
        await crowd.run(buyers=5)
        await assert_kept(own.shop, sale, crowd.orders.values())


@pytest.mark.parametrize("lost", ["an older copy", "everything"])
async def test_a_restart_on_older_data_begins_a_new_epoch(fresh_settings: Settings, tmp_path: Path, lost: str) -> None:
    """The scripts are gone with the run, so nobody sells from it before it was compared (faults 4, 5, 7)."""
    async with own_shop(fresh_settings, tmp_path, worker_here=True) as own:
        shop = own.shop
        sale = await shop.open_sale(units=50)
        crowd = await Crowd(shop, sale).run(buyers=10)
        await asyncio.to_thread(keep_copy, own.valkey, tmp_path / "copy")
        await until_recovered(shop, sale, epoch=1)
        await crowd.run(buyers=10)
        await assert_kept(shop, sale, crowd.orders.values())
        winner, order_id = next(iter(crowd.orders.items()))
        trying = asyncio.create_task(crowd.run(buyers=10))
        copy = tmp_path / "copy" if lost == "an older copy" else None
        await asyncio.to_thread(put_back, own.valkey, copy)

        await until_recovered(shop, sale, epoch=2, recovery=2)
        await trying
        assert len(crowd.orders) == 30
        await assert_kept(shop, sale, crowd.orders.values())

        # A unit that comes back is on sale again in the new epoch, although it was taken in the old one.
        cancelled = await (await shop.client()).post(f"/v1/orders/{order_id}/cancel", headers=shop.headers(winner))
        assert cancelled.status_code == 200
        row = await shop.drained(sale)
        assert (row.units_taken, row.watermark_balance + row.held_back) == (29, 21)


@pytest.mark.parametrize("noticed_by", ["a purchase", "the worker"])
async def test_what_only_a_living_process_knows_is_reported_by_it(
    fresh_settings: Settings, tmp_path: Path, noticed_by: str
) -> None:
    """Postgres never saw these orders and Redis forgot them; whoever promised them remembers (BEHIND, F4)."""
    async with own_shop(fresh_settings, tmp_path) as own:
        shop = own.shop
        async with running_worker(shop.settings):
            sale = await shop.open_sale(units=9)
            crowd = await Crowd(shop, sale).run(buyers=3)
            await shop.drained(sale)
        await crowd.run(buyers=2)
        await asyncio.to_thread(keep_copy, own.valkey, tmp_path / "copy")
        await load_scripts(shop.redis)
        await crowd.run(buyers=2)
        await asyncio.to_thread(put_back, own.valkey, tmp_path / "copy")
        if noticed_by == "a purchase":
            await load_scripts(shop.redis)
            assert outcome(await shop.buy(sale)) == "not_ready"

        async with running_worker(shop.settings):
            await until_recovered(shop, sale, epoch=2)
            await assert_kept(shop, sale, crowd.orders.values())
            await crowd.run(buyers=5)
            assert (len(crowd.orders), crowd.finals["sold_out"]) == (9, 3)
            await assert_kept(shop, sale, crowd.orders.values())


@pytest.mark.parametrize("part", ledger_keys(1, 1)._fields)
async def test_a_part_of_a_ledger_that_is_missing_is_noticed_and_replaced(
    fresh_settings: Settings, tmp_path: Path, part: str
) -> None:
    """Nobody buys in a ledger that has forgotten its buyers, its orders or its events (F5)."""
    async with own_shop(fresh_settings, tmp_path, worker_here=True) as own:
        shop = own.shop
        sale = await shop.open_sale(units=20)
        crowd = await Crowd(shop, sale).run(buyers=5)
        await shop.drained(sale)
        await shop.redis.delete(getattr(ledger_keys(sale.id, 1), part))

        await until_recovered(shop, sale, epoch=2)
        await crowd.run(buyers=5)
        await assert_kept(shop, sale, crowd.orders.values())


async def test_a_ledger_that_is_no_ledger_is_replaced(fresh_settings: Settings, tmp_path: Path) -> None:
    """A key of a wrong type can neither be fenced nor read: nobody sells from it, and a new epoch does (F32)."""
    async with own_shop(fresh_settings, tmp_path, worker_here=True) as own:
        shop = own.shop
        sale = await shop.open_sale(units=20)
        crowd = await Crowd(shop, sale).run(buyers=5)
        await shop.drained(sale)
        for part in ("sale", "orders"):
            await shop.redis.set(getattr(ledger_keys(sale.id, 1), part), "not a ledger")

        await until_recovered(shop, sale, epoch=2)
        await crowd.run(buyers=5)
        await assert_kept(shop, sale, crowd.orders.values())


async def test_an_operator_may_ask_for_a_comparison(fresh_settings: Settings, tmp_path: Path) -> None:
    """A ledger that is right goes on, in the same epoch; asking twice is one recovery."""
    async with own_shop(fresh_settings, tmp_path, worker_here=True) as own:
        shop = own.shop
        sale = await shop.open_sale(units=20)
        crowd = await Crowd(shop, sale).run(buyers=5)
        first, second = [await recover(shop.database, TESTER, sale.id) for _ in range(2)]
        assert (first.n, second.n) == (1, 1)

        await until_recovered(shop, sale, epoch=1)
        await crowd.run(buyers=5)
        await assert_kept(shop, sale, crowd.orders.values())


async def test_a_repeat_of_an_order_of_an_earlier_epoch_tells_nothing_of_this_one(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """It has the number under which it was made, which the new ledger has not reached: nothing is lost by that (I3)."""
    async with own_shop(fresh_settings, tmp_path, worker_here=True) as own:
        shop = own.shop
        sale = await shop.open_sale(units=20)
        crowd = await Crowd(shop, sale).run(buyers=5)
        await assert_kept(shop, sale, crowd.orders.values())
        await shop.redis.flushall()
        await until_recovered(shop, sale, epoch=2)
        winner = next(iter(crowd.orders))

        async def knows_the_epoch() -> bool:
            return outcome(await shop.buy(sale, winner, key="another")) == "over_limit"

        await wait_until(knows_the_epoch, reason="the limit is known again")
        for each in crowd.orders:
            assert await crowd.once(each) == "replayed"

        await recover(shop.database, TESTER, sale.id)
        row = await until_recovered(shop, sale, epoch=2, recovery=2)
        assert (row.held_back, row.watermark_balance) == (0, 15)


async def test_a_pause_and_a_change_of_units_that_were_under_way_are_kept(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """The new ledger begins as if it had applied them, and their numbers go on (I3)."""
    async with own_shop(fresh_settings, tmp_path) as own:
        shop = own.shop
        async with running_worker(shop.settings):
            sale = await shop.open_sale(units=20, stock=30)
            crowd = await Crowd(shop, sale).run(buyers=5)
            await shop.drained(sale)
        for verb, body in (("stock", {"delta": 10}), ("stock", {"delta": -4}), ("pause", None)):
            assert (await shop.change(sale, verb, body)).status_code in {200, 202}
        await shop.redis.flushall()

        async with running_worker(shop.settings):
            row = await until_recovered(shop, sale, epoch=2)
            assert (row.units, row.paused, row.changes) == (26, True, 3)

            async def paused() -> bool:
                return outcome(await shop.buy(sale)) == "sale_paused"

            await wait_until(paused, within=NOTICED_SECONDS, reason="the sale is paused")
            assert (await shop.change(sale, "resume")).status_code == 200
            await crowd.run(buyers=5)
            await assert_kept(shop, sale, crowd.orders.values())


async def test_units_of_an_order_that_was_cancelled_during_the_loss_are_on_sale_again(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """Its row is closed and its units are not back: the new ledger holds them until they are released, once (I8)."""
    async with own_shop(fresh_settings, tmp_path) as own:
        shop = own.shop
        async with running_worker(shop.settings):
            sale = await shop.open_sale(units=5)
            crowd = await Crowd(shop, sale).run(buyers=2)
            await shop.drained(sale)
        await shop.redis.flushall()
        buyer, order_id = next(iter(crowd.orders.items()))
        cancelled = await (await shop.client()).post(f"/v1/orders/{order_id}/cancel", headers=shop.headers(buyer))
        assert (cancelled.status_code, (await shop.row(sale)).units_taken) == (200, 2)

        async with running_worker(shop.settings):
            await until_recovered(shop, sale, epoch=2)

            async def back() -> bool:
                row = await shop.row(sale)
                return (row.units_taken, row.watermark_balance) == (1, 4)

            await wait_until(back, reason="the unit is on sale again")
            await assert_kept(shop, sale, crowd.orders.values())


async def test_a_sale_that_has_ended_is_recovered_and_settles(fresh_settings: Settings, tmp_path: Path) -> None:
    """The units that were not sold are back in the product, and those of an order go there when it is cancelled."""
    async with own_shop(fresh_settings, tmp_path, worker_here=True) as own:
        shop = own.shop
        sale, buyer = await shop.open_sale(units=5), new_user_id()
        order_id = await until_sold(shop, sale, buyer)
        assert (await shop.change(sale, "close")).status_code == 200

        async def ended() -> bool:
            return (await shop.row(sale)).status == "ended"

        await wait_until(ended, reason="the sale has ended")
        await shop.redis.flushall()
        await until_recovered(shop, sale, epoch=2)
        await (await shop.client()).post(f"/v1/orders/{order_id}/cancel", headers=shop.headers(buyer))

        async def settled() -> bool:
            return (await shop.row(sale)).status == "settled"

        await wait_until(settled, reason="the sale is settled")
        assert await unfinished(shop, sale) is None
        report = await shop.audit(sale)
        assert (report.balanced, report.units, (await shop.row(sale)).units_taken) == (True, 0, 0)


async def test_a_unit_that_came_back_and_was_sold_again_before_the_loss_is_its_new_buyers(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """The lost ledger had released it; Postgres still counts it to the order that was cancelled (I6)."""
    async with own_shop(fresh_settings, tmp_path) as own:
        shop, first = own.shop, new_user_id()
        async with running_worker(shop.settings):
            sale = await shop.open_sale(units=1)
            cancelled = await shop.bought(sale, first)
            await shop.drained(sale)
        answer = await (await shop.client()).post(f"/v1/orders/{cancelled}/cancel", headers=shop.headers(first))
        assert answer.status_code == 200
        promised = await until_sold(shop, sale)
        await shop.redis.flushall()

        async with running_worker(shop.settings):
            await until_recovered(shop, sale, epoch=2)
            await assert_kept(shop, sale, [cancelled, promised])
            row = await shop.row(sale)
            assert (row.units_taken, row.held_back) == (1, 0)
