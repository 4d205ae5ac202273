"""A ledger that hangs, dies or loses its scripts, and nothing else; for what it may forget see `tests.recovery`."""

import asyncio
import time
from pathlib import Path

import pytest
from sqlalchemy import select

from loadtests.chaos import LoseReply, LoseRequest, chaos_proxy
from shop.ledger import client as ledger
from shop.ledger.order_ids import keyed_order_id
from shop.orders.models import Order, OrderStatus
from shop.settings import Settings
from tests.crowd import Crowd, assert_each_recorded_once
from tests.harness import Shop, new_user_id, outcome, running_shop, slowdown, wait_until
from tests.processes import call_of, copy_of, frozen, lasting, own_shop

ANSWER_SECONDS_MAX = 3.0


async def test_a_ledger_killed_in_mid_sale_comes_back_with_all_that_it_promised(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """It wrote before it answered; the controller compares, loads the scripts, and selling goes on (faults 3)."""
    async with own_shop(fresh_settings, tmp_path, worker_here=True) as own:
        sale = await own.shop.open_sale(units=200)
        crowd = Crowd(own.shop, sale)
        buying = asyncio.create_task(crowd.run(buyers=300))
        await crowd.until(100)
        own.valkey.kill()
        await asyncio.to_thread(own.valkey.start)
        await buying

        assert (len(crowd.orders), crowd.finals["sold_out"]) == (200, 100)
        assert set(crowd.passing) <= {"not_ready", "unavailable", "unknown_outcome"}
        await assert_each_recorded_once(own.shop, sale, crowd.orders.values())


async def test_a_ledger_that_hangs_for_3_seconds_is_answered_for_in_time_and_tells_the_truth_afterwards(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """503 was not executed, 504 may have been, and a retry with the same key settles it (I9, I12, faults 11)."""
    async with own_shop(fresh_settings, tmp_path, worker_here=True) as own:
        shop = own.shop
        sale = await shop.open_sale(units=100)
        crowd = Crowd(shop, sale)
        users = [new_user_id() for _ in range(60)]

        async def try_once(user_id: str) -> tuple[str, float]:
            started = time.monotonic()
            return await crowd.once(user_id), time.monotonic() - started

        with frozen(own.valkey.pid):
            tries, _ = await asyncio.gather(asyncio.gather(*map(try_once, users)), lasting(3.0))
        assert {found for found, _ in tries} <= {"overloaded", "not_ready", "unavailable", "unknown_outcome"}
        assert max(seconds for _, seconds in tries) < ANSWER_SECONDS_MAX * slowdown()

        assert outcome(await shop.buy(sale)) == "reserved"
        for user_id, (found, _) in zip(users, tries, strict=True):
            order_id = keyed_order_id(sale.id, sale.salt, user_id, f"key-of-{user_id}")
            if found != "unknown_outcome":
                assert await ledger.find_order(shop.redis, sale.id, 1, order_id) is None
        again = [await crowd.once(user_id) for user_id in users]
        assert set(again) <= {"reserved", "replayed"}
        assert len(set(crowd.orders.values())) == 60
        row = await shop.drained(sale)
        assert (row.alarm, row.units_taken) == (None, 61)
        assert (await shop.audit(sale)).balanced


async def test_flushed_scripts_are_loaded_again_in_mid_sale(fresh_settings: Settings, tmp_path: Path) -> None:
    """NOSCRIPT is `not_ready`, never an error, and the controller heals it (F33)."""
    async with own_shop(fresh_settings, tmp_path, worker_here=True) as own:
        sale = await own.shop.open_sale(units=200)
        crowd = Crowd(own.shop, sale)
        buying = asyncio.create_task(crowd.run(buyers=200))
        await crowd.until(50)
        await own.shop.redis.script_flush()
        assert outcome(await own.shop.buy(sale)) == "not_ready"
        await buying

        assert (crowd.finals, set(crowd.passing)) == ({"reserved": 200}, {"not_ready"})
        await assert_each_recorded_once(own.shop, sale, crowd.orders.values())


@pytest.mark.parametrize(("reply_only", "retried"), [(True, "replayed"), (False, "reserved")], ids=["reply", "request"])
async def test_a_buyer_whose_exchange_was_lost_gets_the_truth_by_their_key(
    shop: Shop, *, reply_only: bool, retried: str
) -> None:
    """504 says that the outcome is unknown; the retry is one order in both cases (F9, faults 1)."""
    sale = await shop.open_sale(units=5)
    async with (
        chaos_proxy(shop.settings.redis_url) as proxy,
        running_shop(copy_of(shop.settings, redis_url=proxy.url), worker=False) as behind_proxy,
    ):
        await behind_proxy.until_loaded(sale)
        crowd = Crowd(behind_proxy, sale)
        await proxy.be(LoseReply(call_of("reserve")) if reply_only else LoseRequest(call_of("reserve")))

        assert [await crowd.once("somebody"), proxy.injected] == ["unknown_outcome", 1]
        assert await crowd.once("somebody") == retried
        await assert_each_recorded_once(shop, sale, crowd.orders.values())


async def test_holds_still_expire_after_a_restart_of_the_ledger(fresh_settings: Settings, tmp_path: Path) -> None:
    """arq leaves when its Redis goes; the worker starts it again and goes on (F41)."""
    async with own_shop(fresh_settings, tmp_path, worker_here=True) as own:
        sale = await own.shop.open_sale(units=2, hold_seconds=1)
        assert outcome(await own.shop.buy(sale)) == "reserved"
        await own.shop.drained(sale)
        own.valkey.kill()
        await asyncio.to_thread(own.valkey.start)

        async def expired() -> bool:
            async with own.shop.database.transaction() as session:
                orders = (await session.execute(select(Order).where(Order.sale_id == sale.id))).scalars().all()
            return [order.status for order in orders if order.released_at] == [OrderStatus.EXPIRED]

        await wait_until(expired, reason="the order has expired and its unit is back")
        assert (await own.shop.audit(sale)).balanced
