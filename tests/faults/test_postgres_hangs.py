"""Postgres that hangs or dies in mid-drain: buyers do not notice, and nothing but the drain waits."""

import asyncio
import itertools
from collections.abc import Iterator

import httpx
import pytest

from shop.embedded import PostgresServer
from shop.migrating import migrate
from shop.sales.models import Sale
from shop.settings import Settings
from tests.crowd import Crowd, assert_each_recorded_once
from tests.harness import Shop, create_database, outcome, wait_until
from tests.processes import copy_of, frozen, lasting, own_postgres, own_shop

FROZEN_SECONDS = 20.0
IN_TIME_SECONDS_MAX = 8.0  # on a slow machine; twice one second on a quiet one

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory, live_settings: Settings) -> Iterator[PostgresServer]:
    """A PostgreSQL of these tests' own, with a migrated database to copy."""
    with own_postgres(tmp_path_factory.mktemp("postgres")) as server:
        migrate(copy_of(live_settings, database_url=create_database(server.url, "migrated")))
        yield server


@pytest.fixture
def settings(postgres: PostgresServer, live_settings: Settings) -> Settings:
    """The settings of an empty shop on it."""
    url = create_database(postgres.url, f"shop_{next(_numbers)}", template="migrated")
    return copy_of(live_settings, database_url=url)


async def read_orders(shop: Shop) -> httpx.Response:
    """A request that only Postgres can answer."""
    return await (await shop.client()).get("/v1/orders", headers=shop.headers())


async def until_readable(shop: Shop) -> None:
    """Wait until Postgres answers requests again."""

    async def readable() -> bool:
        return (await read_orders(shop)).status_code == 200

    await wait_until(readable, reason="orders can be read again")


async def assert_neither_paused_nor_alarmed(shop: Shop, sale: Sale) -> None:
    """A transient failure is not taken for a permanent one."""
    row = await shop.row(sale)
    assert (row.paused, row.alarm, row.changes) == (False, None, 0)


async def test_a_postgres_that_hangs_for_20_seconds_stops_neither_the_sale_nor_its_drain(
    postgres: PostgresServer, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Purchases of known sales go on, and what was accepted meanwhile is recorded afterwards (I12, faults 15)."""
    async with own_shop(settings, tmp_path_factory.mktemp("shop"), worker_here=True) as own:
        sale = await own.shop.open_sale(units=600)
        crowd = Crowd(own.shop, sale)
        buying = asyncio.create_task(crowd.run(buyers=400))
        await crowd.until(50)
        with frozen(postgres.pid):
            reading = asyncio.create_task(read_orders(own.shop))
            await asyncio.gather(lasting(FROZEN_SECONDS), buying)
            last = await own.shop.buy(sale)
            assert reading.done()
        assert (outcome(last), (await reading).status_code) == ("reserved", 503)
        assert (crowd.finals, crowd.passing) == ({"reserved": 400}, {})

        await assert_each_recorded_once(own.shop, sale, {*crowd.orders.values(), last.json()["id"]})
        await assert_neither_paused_nor_alarmed(own.shop, sale)
        await until_readable(own.shop)


async def test_while_postgres_hangs_a_read_is_refused_long_before_its_statement_would_end(
    postgres: PostgresServer, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What cannot be answered says so; what changes something is waited for, since it may be done."""
    in_time = copy_of(settings, read_seconds_max=1.0, database_statement_timeout_seconds=4 * IN_TIME_SECONDS_MAX)
    async with own_shop(in_time, tmp_path_factory.mktemp("shop"), worker_here=True) as own:
        await until_readable(own.shop)
        client, headers = await own.shop.client(), own.shop.headers()
        now = asyncio.get_running_loop().time
        with frozen(postgres.pid):
            began = now()
            wish, key = {"lines": [{"product_id": 999_999, "quantity": 1}]}, {"Idempotency-Key": "placed"}
            placing = asyncio.create_task(client.post("/v1/orders", json=wish, headers=headers | key))
            answers = await asyncio.gather(*(read_orders(own.shop) for _ in range(5)))
            answers.append(await client.head("/v1/me", headers=headers))
            seconds = now() - began
            assert not placing.done()
        assert [answer.status_code for answer in answers] == [503] * 6
        assert {answer.json()["code"] for answer in answers[:5]} == {"unavailable"}
        assert seconds < IN_TIME_SECONDS_MAX

        await until_readable(own.shop)
        assert (await placing).status_code == 404


async def test_a_postgres_killed_and_restarted_in_mid_drain_loses_and_doubles_nothing(
    postgres: PostgresServer, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A batch whose commit nobody answered is compared with the watermark, and done again only if it has to be (I6)."""
    async with own_shop(settings, tmp_path_factory.mktemp("shop"), worker_here=True) as own:
        sale = await own.shop.open_sale(units=600)
        crowd = Crowd(own.shop, sale)
        buying = asyncio.create_task(crowd.run(buyers=800))
        await crowd.until(100)
        postgres.kill()
        await crowd.until(400)
        await asyncio.to_thread(postgres.start)
        await buying

        # Buyers who were not answered in time on a busy machine ask again, and find what they have.
        assert (crowd.finals["reserved"] + crowd.finals["replayed"], crowd.finals["sold_out"]) == (600, 200)
        assert crowd.finals["replayed"] <= crowd.passing["unknown_outcome"] + crowd.passing["reset"]
        await assert_each_recorded_once(own.shop, sale, crowd.orders.values())
        await assert_neither_paused_nor_alarmed(own.shop, sale)


async def test_without_postgres_a_read_is_refused_with_a_problem_until_it_is_back(
    postgres: PostgresServer, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Down later: 503, and the shop heals by itself; a sale that this process knows is sold meanwhile."""
    async with own_shop(settings, tmp_path_factory.mktemp("shop"), worker_here=True) as own:
        sale = await own.shop.open_sale(units=5)
        postgres.kill()
        refused = await read_orders(own.shop)
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert int(refused.headers["Retry-After"]) >= 1
        assert outcome(await own.shop.buy(sale)) == "reserved"

        await asyncio.to_thread(postgres.start)
        await until_readable(own.shop)
        await own.shop.drained(sale)
