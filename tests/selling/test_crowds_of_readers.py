"""Crowds of readers: a key is loaded once for all processes, and made-up ids cost a few statements however many."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis.asyncio as aioredis
from sqlalchemy import event, insert

from shop.cache import Cache
from shop.database import Database
from shop.products.hot import HotProducts
from shop.products.models import Product
from shop.products.reading import ProductReader
from shop.public_pages.memory import Key, PageMemory
from shop.public_pages.page import Page
from shop.public_pages.reading import PRODUCT, SALE, PageReader
from shop.redis import connect
from shop.settings import Settings
from tests.harness import PATIENCE
from tests.processes import copy_of

MADE_UP = 10**9
PAUSE_SECONDS, FLOOD_SECONDS = 0.1, 0.6


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stands still makes no page unreadable."""
    monkeypatch.setattr("shop.public_pages.memory.READ_SECONDS_MAX", 10.0)


@dataclass
class Process:
    """What one API process reads its public pages with, and the ids of each statement that it has sent."""

    memory: PageMemory
    loaded: Counter[int] = field(default_factory=Counter)
    statements: list[float] = field(default_factory=list)

    def count(self, statement: str, parameters: Any) -> None:
        self.statements.append(time.monotonic())
        if "products.name" in statement:
            self.loaded.update(parameters[0])

    async def read(self, *keys: Key) -> list[Page | None]:
        """The pages as readers get them who come at the same time."""
        found = [self.memory.find(key) for key in keys]
        return [each if isinstance(each, Page) else await each for each in found]


@asynccontextmanager
async def process(settings: Settings) -> AsyncIterator[Process]:
    """A process of its own, as far as reading goes; it is patient, since the machine may stand still."""
    client, database = connect(settings.redis_url, settings), Database(settings, application_name="shop-tests")
    cache = Cache(client, settings)
    reader = PageReader(
        database, cache, ProductReader(database, cache, settings), HotProducts(database, client, settings), settings
    )
    found = Process(PageMemory(reader.read, bytes_max=10**8, waiters_max=10_000, stale_seconds_max=60))
    event.listen(
        database.engine.sync_engine,
        "before_cursor_execute",
        lambda _, __, statement, parameters, *___: found.count(statement, parameters),
    )
    yield found
    await database.close()
    await client.aclose(close_connection_pool=True)


async def catalogue(database: Database, count: int) -> Sequence[int]:
    """The ids of so many new products."""
    rows = [{"name": f"Product {n}", "price_minor": 990, "currency": "EUR"} for n in range(count)]
    async with database.transaction() as session:
        return (await session.scalars(insert(Product).returning(Product.id), rows)).all()


async def test_each_of_many_cold_products_is_loaded_once_for_all_processes(
    database: Database, redis: aioredis.Redis, settings: Settings
) -> None:
    """Everybody is served at once, though all come at the same moment."""
    patient = copy_of(settings, **PATIENCE)
    ids = await catalogue(database, 200)
    async with process(patient) as first, process(patient) as second:
        keys = [Key(PRODUCT, product_id) for product_id in ids] * 3
        pages = await asyncio.gather(*(each.read(*keys) for each in (first, second)))

        assert {page is not None for found in pages for page in found} == {True}
        loads = first.loaded + second.loaded
        assert (set(loads), max(loads.values())) == (set(ids), 1)
        assert len(first.statements) + len(second.statements) < 60
    assert await redis.dbsize() >= 2 * len(ids)


async def test_a_flood_of_made_up_ids_costs_a_few_statements_and_a_cold_product_does_not_wait_behind_it(
    database: Database, redis: aioredis.Redis, settings: Settings
) -> None:
    """Above the newest id and between, of products and of sales; nothing of it is written."""
    (cold,) = await catalogue(database, 1)
    async with process(copy_of(settings, unknown_ids_pause_seconds=PAUSE_SECONDS)) as flooded:
        began = time.monotonic()

        async def make_up(first: int) -> int:
            for number in itertools.count(first):
                assert await flooded.read(Key(PRODUCT, number), Key(SALE, number)) == [None, None]
                if time.monotonic() - began >= FLOOD_SECONDS:
                    return number - first + 1
            raise AssertionError("numbers do not end")

        async def read_cold() -> float:
            await asyncio.sleep(FLOOD_SECONDS / 2)
            asked = time.monotonic()
            assert await flooded.read(Key(PRODUCT, cold)) != [None]
            return time.monotonic() - asked

        took, *made_up = await asyncio.gather(read_cold(), *(make_up(MADE_UP + n * 1_000) for n in range(50)))

        pauses = (time.monotonic() - began) / PAUSE_SECONDS
        assert (took < 3.0, sum(made_up) >= 50) == (True, True)
        assert len(flooded.statements) <= 2 * (pauses + 1) + 1
    assert {key for key in await redis.keys("*") if b"product:%d}" % cold not in key} == set()


async def test_an_id_that_was_nobodys_a_moment_ago_is_found_as_soon_as_there_is_such_a_product(
    database: Database, redis: aioredis.Redis, settings: Settings
) -> None:
    """Another process has made it."""
    (product,) = await catalogue(database, 1)
    async with process(settings) as reading:
        assert await reading.read(Key(PRODUCT, product + 1)) == [None]
        (made,) = await catalogue(database, 1)
        assert made == product + 1
        await Cache(redis, settings).invalidate(f"product:{made}")

        assert await reading.read(Key(PRODUCT, made)) != [None]
