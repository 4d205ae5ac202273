"""A ledger that is not the one which was recorded and promised, in a Redis that never stopped: it is noticed."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import redis.asyncio as aioredis
from sqlalchemy import update

from shop.database import Database
from shop.ledger import client as ledger
from shop.ledger import stream
from shop.ledger.events import named_fields
from shop.ledger.keys import ledger_keys
from shop.orders.persister import Persister
from shop.orders.repository import has_unfinished
from shop.redis import scripts_loaded
from shop.sales import service
from shop.sales.controller import Controller
from shop.sales.models import Sale, SaleEpoch
from shop.sales.repository import update_sale
from shop.settings import Settings
from shop.worker import Context, running_worker
from shop.worker.running import controller_of
from tests.crowd import recorded
from tests.harness import TESTER, Shop, new_user_id, outcome, wait_until
from tests.lua.ledgers import command
from tests.processes import own_shop
from tests.recovery.losses import assert_kept, unfinished, until_recovered


@pytest.mark.parametrize("wrong", [{b"order": b"\xff" * 16}, {b"balance": b"3"}], ids=["order", "balance"])
async def test_another_entry_at_the_watermark_is_noticed_by_the_worker(shop: Shop, wrong: dict[bytes, bytes]) -> None:
    """The stream was rolled back and has grown again: it is as long as what was recorded, and is not the same."""
    sale = await shop.open_sale(units=5)
    order_id = await shop.bought(sale)
    await shop.drained(sale)
    [(seq, fields)] = await stream.events_from(shop.redis, sale.id, 1, 1, 1)
    parts = [part for pair in {**named_fields(fields), **wrong}.items() for part in pair]
    async with shop.redis.pipeline(transaction=True) as pipe:
        pipe.delete(ledger_keys(sale.id, 1).stream)
        await pipe.execute_command("XADD", ledger_keys(sale.id, 1).stream, f"{seq}-0", *parts)
        await pipe.execute()

    await until_recovered(shop, sale, epoch=2)
    await assert_kept(shop, sale, [order_id])


@pytest.mark.parametrize("older", [{"run_id": "another run"}, {"watermark": 5}], ids=["run", "watermark"])
async def test_a_ledger_that_may_be_older_is_fenced_before_the_scripts_are_there_again(
    database: Database, redis: aioredis.Redis, settings: Settings, older: dict[str, Any]
) -> None:
    """What waits for them, such as a release, would write into it under numbers that are promised already."""
    shop = Shop(settings, database, redis, "")
    sale = await shop.draft_sale(units=10)
    async with database.transaction() as session:
        await service.schedule(session, TESTER, sale.id)
    controller = Controller(database, redis, redis, settings, asyncio.Event(), unfinished=has_unfinished)
    await controller.step()

    async with database.transaction() as session:
        table = SaleEpoch if "run_id" in older else Sale
        await session.execute(update(table).values(older))
    await redis.script_flush()
    await controller.step()

    assert await scripts_loaded(redis)
    assert await command(redis, "HGET", ledger_keys(sale.id, 1).sale, "epoch") == b"fenced.1"


async def test_a_change_that_the_ledger_has_forgotten_is_noticed_by_the_next_one(shop: Shop) -> None:
    """The next number leaves one out, so the ledger refuses it; the new one begins with both (I3)."""
    sale = await shop.open_sale(units=5, stock=9)
    assert (await shop.change(sale, "pause")).status_code == 200
    assert (await shop.change(sale, "resume")).status_code == 200
    await shop.drained(sale)
    await command(shop.redis, "HSET", ledger_keys(sale.id, 1).sale, "applied", 1)
    await shop.change(sale, "stock", {"delta": 4})

    row = await until_recovered(shop, sale, epoch=2)
    assert (row.units, row.watermark_balance, row.paused) == (9, 9, False)
    await assert_kept(shop, sale, [])


async def test_a_ledger_whose_keys_are_missing_is_not_filled_from_postgres(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """The controller alone finds it, and asks for a recovery: orders may be in flight (F3, F5, F6)."""
    async with own_shop(fresh_settings, tmp_path) as own:
        shop, keys = own.shop, ledger_keys(1, 1)
        async with running_worker(shop.settings):
            sale = await shop.open_sale(units=5)
            assert outcome(await shop.buy(sale)) == "reserved"
            await shop.drained(sale)
        context = Context.connect(shop.settings)
        await command(shop.redis, "DEL", *keys)

        await controller_of(context).step()

        assert await command(shop.redis, "EXISTS", *keys) == 0
        assert await unfinished(shop, sale) is not None
        await context.close()


async def test_an_order_that_the_ledger_has_forgotten_is_noticed_by_the_process_that_promised_it(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """BEHIND closes the sale for every process, with no worker there to look (F4)."""
    async with own_shop(fresh_settings, tmp_path) as own:
        shop = own.shop
        async with running_worker(shop.settings):
            sale = await shop.open_sale(units=5)
        order_id = UUID(await shop.bought(sale))
        await command(shop.redis, "HDEL", ledger_keys(sale.id, 1).orders, order_id.bytes)

        assert outcome(await shop.buy(sale)) == "not_ready"

        async def closed() -> bool:
            state = await ledger.read_state(shop.redis, sale.id, 1)
            return state is not None and state.epoch == "fenced.1" and await unfinished(shop, sale) is not None

        await wait_until(closed, reason="the sale is closed and waits for its recovery")


async def test_a_persister_that_slept_through_a_recovery_records_nothing_of_the_old_epoch(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """It compares the epoch under the lock, and drops what it has read of a ledger that is replaced (I1)."""
    async with own_shop(fresh_settings, tmp_path) as own:
        shop = own.shop
        async with running_worker(shop.settings):
            sale = await shop.open_sale(units=5)
        context = Context.connect(shop.settings)
        late = Persister(context.persist_database, context.ledger, sale.id, context.settings, context.stopping)
        assert await late.step()  # From now on it knows where Postgres is, and it knows no better when it wakes up.
        assert outcome(await shop.buy(sale, new_user_id())) == "reserved"
        async with shop.database.transaction() as session:
            session.add(SaleEpoch(sale_id=sale.id, epoch=2, opening_balance=5))
            await session.flush()
            await update_sale(session, sale.id, epoch=2)

        assert await late.step()

        row = await shop.row(sale)
        assert (row.epoch, row.watermark, row.units_taken) == (2, 0, 0)
        assert await recorded(shop, sale) == []
        await context.close()
