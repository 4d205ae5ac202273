"""A PostgreSQL of which others have every connection: nobody who buys or looks notices, all others are told in time."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import httpx

from shop.embedded import PostgresServer
from shop.settings import Settings
from tests.api.answers import problem_of
from tests.crowd import Crowd, assert_each_recorded_once
from tests.faults.operating import HEALED_SECONDS
from tests.harness import Shop, keyed, slowdown, wait_until
from tests.processes import copy_of, own_shop

REFUSED_SECONDS = 2.0
AT_ONCE = 25
WAITS = ("database_pool_wait_seconds", "database_connect_seconds", "database_ping_seconds")
AS_DELIVERED = {name: Settings.model_fields[name].default for name in WAITS}
END_THOSE_OF_THE_SHOP = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'shop-%'"
COUNT_THOSE_OF_THE_SHOP = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'shop-%'"


@asynccontextmanager
async def full(url: str) -> AsyncIterator[None]:
    """Within it others have every connection that this server takes, also those that the shop had."""
    async with AsyncExitStack() as taken:
        connection = await taken.enter_async_context(_connected(url))

        async def all_taken() -> bool:
            await connection.execute(END_THOSE_OF_THE_SHOP)
            room = True
            while room:
                try:
                    await taken.enter_async_context(_connected(url))
                except asyncpg.TooManyConnectionsError:
                    room = False
            return not await connection.fetchval(COUNT_THOSE_OF_THE_SHOP)

        await wait_until(all_taken, reason="others have all connections")
        yield


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""), server_settings={"application_name": "others"})
    try:
        yield connection
    finally:
        connection.terminate()


async def refused_in_time(shop: Shop) -> None:
    """Whatever needs Postgres is 503, and nobody waits longer for that than they may."""
    client, buyer, admin = await shop.client(), shop.headers(), shop.admin_headers()
    product = {"name": "Thing", "price_minor": 1, "currency": "EUR"}
    started = time.monotonic()
    answers: list[httpx.Response] = await asyncio.gather(
        *(client.get("/v1/orders", headers=buyer) for _ in range(AT_ONCE)),
        client.get("/v1/admin/orders", headers=admin),
        client.post("/v1/admin/products", headers=keyed(admin), json=product),
    )
    took = time.monotonic() - started
    for answer in answers:
        problem_of(answer, 503, "unavailable")
    assert took < REFUSED_SECONDS * slowdown()


async def test_a_postgres_without_a_connection_left_touches_neither_purchases_nor_pages(
    postgres: PostgresServer, breakable: Settings, tmp_path: Path
) -> None:
    async with own_shop(copy_of(breakable, **AS_DELIVERED), tmp_path, worker_here=True) as own:
        shop, client = own.shop, await own.shop.client()
        sale = await shop.open_sale(units=100)
        path = f"/v1/seckill/sales/{sale.id}"
        assert (await client.get(path)).status_code == 200
        async with full(postgres.url):
            crowd = await Crowd(shop, sale).run(buyers=40)
            await refused_in_time(shop)
            page = await client.get(path)
            assert (await client.get("/livez")).status_code == 200

        assert (crowd.finals, crowd.passing) == ({"reserved": 40}, {})
        assert (page.status_code, page.json()["id"]) == (200, sale.id)
        assert int(page.headers["age"]) >= 0
        async with asyncio.timeout(HEALED_SECONDS):
            await assert_each_recorded_once(shop, sale, crowd.orders.values())
