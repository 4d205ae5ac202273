"""A Redis that is full, whose disk is full, or that is busy with a loop: new purchases wait, and nothing is lost."""

import asyncio
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from shop.embedded import ValkeyServer
from shop.ledger import client as ledger
from shop.redis import Unable
from shop.settings import Settings
from tests.crowd import Crowd, assert_each_recorded_once
from tests.faults.full_disk import full, small_disk
from tests.harness import DEADLINE_SECONDS, LOGINS, new_user_id, wait_until
from tests.processes import own_shop

BUSY_AFTER_MS = 50
NOT_DONE = {"not_ready", "overloaded", "unavailable"}


async def test_a_full_redis_sells_nothing_and_takes_units_back_until_it_has_room(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """New orders are 503 and not done; a cancellation and the drain go on; then all heals (I6, I8, I9, faults 9)."""
    async with own_shop(fresh_settings, tmp_path) as own:
        shop, buyer = own.shop, new_user_id()
        own.processes.start_worker()
        sale = await shop.open_sale(units=20)
        order_id = await shop.bought(sale, buyer)
        crowd = await Crowd(shop, sale).run(buyers=9)
        await shop.drained(sale)

        await shop.redis.config_set("maxmemory", 1)
        assert {await crowd.once(new_user_id()) for _ in range(5)} <= NOT_DONE
        cancelled = await (await shop.client()).post(f"/v1/orders/{order_id}/cancel", headers=shop.headers(buyer))
        assert cancelled.status_code == 200

        async def back() -> bool:
            return (await shop.row(sale)).units_taken == 9

        await wait_until(back, reason="the unit is back, also in Postgres")
        await shop.redis.config_set("maxmemory", 0)
        async with asyncio.timeout(DEADLINE_SECONDS):
            await crowd.run(buyers=15)
            await assert_each_recorded_once(shop, sale, {order_id, *crowd.orders.values()})
        assert (len(crowd.orders), crowd.finals["sold_out"]) == (20, 4)


async def test_a_ledger_whose_disk_is_full_goes_down_before_it_breaks_a_promise(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """It cannot write what it would promise, and ends; started with room, it has all of it (I6, faults 13)."""
    with small_disk(tmp_path / "disk", megabytes=16) as disk:
        valkey = ValkeyServer(disk, users=LOGINS.lines)
        async with own_shop(fresh_settings, tmp_path, worker_here=True, valkey=valkey) as own:
            sale = await own.shop.open_sale(units=60)
            crowd = await Crowd(own.shop, sale).run(buyers=10)
            with full(disk):
                buying = asyncio.create_task(crowd.run(buyers=30))

                async def down() -> bool:
                    return crowd.passing.total() > 0 and not valkey_runs(valkey)

                await wait_until(down, reason="the server is down")
            await asyncio.to_thread(valkey.start)
            async with asyncio.timeout(DEADLINE_SECONDS):
                await buying
                await assert_each_recorded_once(own.shop, sale, crowd.orders.values())
            assert len(crowd.orders) == 40


def valkey_runs(valkey: ValkeyServer) -> bool:
    """Whether the server's process is there."""
    return valkey._process is not None and valkey._process.running


async def test_a_script_that_does_not_end_is_answered_for_in_time_and_costs_nothing(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """Who asks meanwhile is told that it is busy, which is 503; then the sale goes on (I9, I12, faults 12)."""
    async with own_shop(fresh_settings, tmp_path, worker_here=True) as own:
        shop = own.shop
        sale = await shop.open_sale(units=30)
        crowd = await Crowd(shop, sale).run(buyers=5)
        await shop.redis.config_set("busy-reply-threshold", BUSY_AFTER_MS)
        looping = asyncio.ensure_future(ledger.command(shop.redis, "EVAL", "while true do end", 0))

        async def busy() -> bool:
            try:
                await shop.redis.ping()
            except Unable:
                return True
            return False

        await wait_until(busy, reason="the server is busy")
        told = [await crowd.once(new_user_id()) for _ in range(5)]
        assert set(told) <= NOT_DONE
        await ledger.command(shop.redis, "SCRIPT KILL")
        with pytest.raises(ResponseError):
            await looping
        async with asyncio.timeout(DEADLINE_SECONDS):
            await crowd.run(buyers=25)
            await assert_each_recorded_once(shop, sale, crowd.orders.values())
        row = await shop.row(sale)
        assert (len(crowd.orders), row.recovery, row.epoch) == (30, 0, 1)
