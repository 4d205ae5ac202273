"""A stream that is longer than a batch: it is read ahead, and each entry is recorded once and in its order."""

import asyncio

import pytest
import redis.asyncio as aioredis

from shop.database import Database
from shop.ledger.keys import ledger_keys
from shop.orders.persister import Persister
from shop.orders.reading import Position, StreamReader
from shop.sales import repository as sales
from shop.sales import service
from shop.sales.loading import load
from shop.sales.models import Sale
from shop.settings import Settings
from tests.crowd import recorded
from tests.harness import TESTER, Shop
from tests.orders.holds import reserve
from tests.processes import copy_of

BATCH, ORDERS = 4, 11


@pytest.fixture
def quiet(settings: Settings, database: Database, redis: aioredis.Redis) -> Shop:
    """A shop without an API and without a worker, whose batches are small."""
    return Shop(copy_of(settings, persist_batch_max=BATCH), database, redis, base_url="")


async def unrecorded_sale(shop: Shop) -> Sale:
    """A sale whose orders are in its ledger alone."""
    draft = await shop.draft_sale(units=ORDERS)
    async with shop.database.transaction() as session:
        sale = await service.schedule(session, TESTER, draft.id)
    await load(shop.database, shop.redis, sale, shop.settings)
    assert await reserve(shop, sale, ORDERS) == ["RESERVED"] * ORDERS
    return sale


async def test_the_rest_of_a_ledger_is_recorded_however_many_batches_it_has(quiet: Shop) -> None:
    sale = await unrecorded_sale(quiet)

    await Persister(quiet.database, quiet.redis, sale.id, quiet.settings, asyncio.Event()).drain_rest()

    assert (await quiet.row(sale)).watermark == ORDERS
    assert len(await recorded(quiet, sale)) == ORDERS


async def test_the_rest_of_a_ledger_is_recorded_up_to_the_entry_that_is_poison(quiet: Shop) -> None:
    """The poison is in the batch that was read ahead, behind good entries."""
    sale = await unrecorded_sale(quiet)
    stream = ledger_keys(sale.id, 1).stream
    await quiet.redis.xadd(stream, {"junk": b"\xff"}, id=f"{ORDERS + 1}-0")

    await Persister(quiet.database, quiet.redis, sale.id, quiet.settings, asyncio.Event()).drain_rest()

    assert (await quiet.row(sale)).watermark == ORDERS


async def test_what_was_read_ahead_is_taken_by_whoever_is_there_and_by_nobody_else(quiet: Shop) -> None:
    """A batch that failed is read again, not the one behind it."""
    sale = await unrecorded_sale(quiet)
    reader = StreamReader(quiet.redis, sale.id)
    start = Position(1, 0, None)
    first = await reader.next(start, BATCH)
    assert first is not None
    assert [event.seq for event in first] == [1, 2, 3, 4]

    reader.read_ahead(1, first[-1], BATCH)
    assert await reader.next(start, BATCH) == first

    reader.read_ahead(1, first[-1], BATCH)
    await asyncio.sleep(0.05)
    await quiet.redis.delete(ledger_keys(sale.id, 1).stream)
    behind = await reader.next(Position(1, 4, sales.Entry(first[-1].order_id, first[-1].balance)), BATCH)
    assert behind is not None
    assert [event.seq for event in behind] == [5, 6, 7, 8]
    assert await reader.next(Position(1, 8, sales.Entry(behind[-1].order_id, behind[-1].balance)), BATCH) is None
