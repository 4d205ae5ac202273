"""A ledger that hangs, dies, forgets or goes back in time: it sells again only if it agrees with what was promised."""

import asyncio
import shutil
import time
from pathlib import Path

import pytest
from sqlalchemy import select

from shop.embedded import ValkeyServer
from shop.orders.models import Order, OrderStatus
from shop.orders.release import sweep
from shop.redis import load_scripts, scripts_loaded
from shop.sales.models import Sale
from shop.seckill import ledger
from shop.seckill.keys import ledger_keys
from shop.seckill.order_ids import keyed_order_id
from shop.settings import Settings
from shop.worker import running_worker
from tests.harness import Shop, new_user_id, outcome, running_shop, wait_until
from tests.pipeline.crowd import Crowd, assert_each_recorded_once, recorded
from tests.pipeline.proxy import lossy_proxy
from tests.processes import copy_of, frozen, lasting, own_shop

ALARM_SECONDS = 5.0
ANSWER_SECONDS_MAX = 3.0


async def until_alarm(shop: Shop, sale: Sale) -> str:
    """Wait for the alarm in the sale's row, and return it."""

    async def alarm() -> str | None:
        return (await shop.row(sale)).alarm

    found: str = await wait_until(alarm, within=ALARM_SECONDS, reason="the alarm stands")
    return found


async def assert_closed_for_good(shop: Shop, sale: Sale, winners: dict[str, str]) -> None:
    """Nobody buys, nobody resumes, and each winner still finds his order by his key."""
    assert outcome(await shop.buy(sale)) == "not_ready"
    assert (await shop.change(sale, "resume")).status_code == 409
    winner, order_id = next(iter(winners.items()))
    retried = await shop.buy(sale, winner, key=f"key-of-{winner}")
    assert (retried.status_code, retried.json()["id"]) == (200, order_id)
    assert retried.headers["Idempotency-Replayed"] == "true"


def keep_copy(valkey: ValkeyServer, copy: Path) -> None:
    """Stop the server, copy its data as it is, and start it again."""
    valkey.stop()
    shutil.copytree(valkey.directory / "appendonlydir", copy)
    valkey.start()


def put_back(valkey: ValkeyServer, copy: Path) -> None:
    """Stop the server, and start it on the older copy of its data."""
    valkey.stop()
    shutil.rmtree(valkey.directory / "appendonlydir")
    shutil.copytree(copy, valkey.directory / "appendonlydir")
    valkey.start()


async def test_a_flushed_ledger_stays_closed_and_is_never_refilled(fresh_settings: Settings, tmp_path: Path) -> None:
    """Missing keys mean closed, also for a new worker and a new API; the winners keep what they have (F3, F5)."""
    async with own_shop(fresh_settings, tmp_path) as own:
        shop = own.shop
        async with running_worker(shop.settings):
            sale = await shop.open_sale(units=50)
            crowd = await Crowd(shop, sale).run(buyers=10)
            await assert_each_recorded_once(shop, sale, crowd.orders.values())

            await shop.redis.flushall()
            assert outcome(await shop.buy(sale)) == "not_ready"
            assert "missing" in await until_alarm(shop, sale)
            await assert_closed_for_good(shop, sale, crowd.orders)

        async with running_worker(shop.settings), running_shop(shop.settings, worker=False) as restarted:
            # Another sale opens, so the new worker has looked at this one too.
            other = await restarted.open_sale(units=1)
            assert outcome(await restarted.buy(other)) == "reserved"
            for each in (shop, restarted):
                await assert_closed_for_good(each, sale, crowd.orders)
            assert await shop.redis.exists(*ledger_keys(sale.id, 1)) == 0
            report = await shop.audit(sale)
            assert (report.held, report.invariants["I1"], report.invariants["I4"]) == (10, False, True)


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


async def test_a_ledger_behind_postgres_stays_closed(fresh_settings: Settings, tmp_path: Path) -> None:
    """The scripts are gone after a restart, and are loaded only when such a ledger is fenced: nobody slips in (F4)."""
    async with own_shop(fresh_settings, tmp_path, worker_here=True) as own:
        shop = own.shop
        sale = await shop.open_sale(units=50)
        crowd = await Crowd(shop, sale).run(buyers=10)
        await asyncio.to_thread(keep_copy, own.valkey, tmp_path / "copy")
        await crowd.run(buyers=10)
        await assert_each_recorded_once(shop, sale, crowd.orders.values())
        late = Crowd(shop, sale)
        trying = asyncio.create_task(late.run(buyers=20))
        own.valkey.stop()
        await asyncio.to_thread(put_back, own.valkey, tmp_path / "copy")

        assert "20" in await until_alarm(shop, sale)  # the watermark
        await wait_until(lambda: scripts_loaded(shop.redis), reason="the scripts are loaded")
        await assert_closed_for_good(shop, sale, crowd.orders)
        late.stopped = True
        await trying
        assert late.orders == {}
        report = await shop.audit(sale)
        assert (report.held, report.invariants["I1"], report.invariants["I4"]) == (20, False, True)

        # What is cancelled now is owed until the recovery: units do not go back into a ledger that is not trusted.
        winner, order_id = next(iter(crowd.orders.items()))
        cancelled = await (await shop.client()).post(f"/v1/orders/{order_id}/cancel", headers=shop.headers(winner))
        assert (cancelled.status_code, cancelled.json()["released_at"]) == (200, None)
        assert await sweep(shop.database, shop.redis, shop.settings) == 0
        state = await ledger.read_state(shop.redis, sale.id, 1)
        assert state is not None
        assert (state.available, state.seq) == (40, 10)


async def test_a_process_sells_nothing_from_a_ledger_that_forgot_its_last_order(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """Postgres cannot see it, for the order was not drained; the process that promised it can (BEHIND, F4)."""
    async with own_shop(fresh_settings, tmp_path) as own:
        shop = own.shop
        async with running_worker(shop.settings):
            sale = await shop.open_sale(units=50)
            drained = await Crowd(shop, sale).run(buyers=3)
            await shop.drained(sale)
        undrained = await Crowd(shop, sale).run(buyers=2)
        await asyncio.to_thread(keep_copy, own.valkey, tmp_path / "copy")
        await load_scripts(shop.redis)
        forgotten = await Crowd(shop, sale).run(buyers=1)
        await asyncio.to_thread(put_back, own.valkey, tmp_path / "copy")

        # Without the scripts nobody sells, and an API never loads them: that is the controller's, once it has compared.
        assert outcome(await shop.buy(sale)) == "not_ready"
        assert not await scripts_loaded(shop.redis)
        await load_scripts(shop.redis)
        assert outcome(await shop.buy(sale)) == "not_ready"
        async with running_worker(shop.settings):
            assert "lost" in await until_alarm(shop, sale)
            await assert_closed_for_good(shop, sale, drained.orders)
            loser = next(iter(forgotten.orders))
            assert outcome(await shop.buy(sale, loser, key=f"key-of-{loser}")) == "not_ready"

            async def all_recorded() -> bool:
                return await recorded(shop, sale) == sorted({**drained.orders, **undrained.orders}.values())

            await wait_until(all_recorded, reason="what the ledger still had is recorded")


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
        assert max(seconds for _, seconds in tries) < ANSWER_SECONDS_MAX

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
async def test_a_buyer_whose_exchange_was_lost_gets_the_truth_by_his_key(
    shop: Shop, *, reply_only: bool, retried: str
) -> None:
    """504 says that the outcome is unknown; the retry is one order in both cases (F9, faults 1)."""
    sale = await shop.open_sale(units=5)
    async with (
        lossy_proxy(shop.settings.redis_url) as proxy,
        running_shop(copy_of(shop.settings, redis_url=proxy.url), worker=False) as behind_proxy,
    ):
        await behind_proxy.until_loaded(sale)
        crowd = Crowd(behind_proxy, sale)
        proxy.lose("reserve", reply_only=reply_only)

        assert [await crowd.once("somebody"), proxy.lost] == ["unknown_outcome", 1]
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
