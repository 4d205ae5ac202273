"""The side server has what may be lost: reads write there and not where the ledger is, and its loss costs nothing."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import redis.asyncio as aioredis

from shop.embedded import ValkeyServer
from shop.embedded.valkey import side_server
from shop.redis import connect
from shop.settings import Settings
from tests.harness import LOGINS, new_user_id, outcome, wait_until
from tests.processes import OwnShop, copy_of, own_shop


@pytest.fixture
async def side(tmp_path: Path) -> AsyncIterator[ValkeyServer]:
    """A side server as `shop up` starts one."""
    server = side_server(tmp_path, users=LOGINS.lines)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def own(side: ValkeyServer, fresh_settings: Settings, tmp_path: Path) -> AsyncIterator[OwnShop]:
    """A shop with a ledger of its own beside that server, and a worker."""
    settings = copy_of(fresh_settings, cache_redis_url=side.url)
    async with own_shop(settings, tmp_path, worker_here=True) as found:
        yield found


async def written(ledger: aioredis.Redis) -> tuple[int, int]:
    """The bytes of the append-only file, and how many changes of the data it has."""
    persistence = await ledger.info("persistence")
    return persistence["aof_current_size"], persistence["rdb_changes_since_last_save"]


async def answered(client: httpx.AsyncClient, path: str, headers: dict[str, str]) -> int:
    """The status of what is read; a machine that stands still says "later" before."""

    async def once() -> int | None:
        status = (await client.get(path, headers=headers)).status_code
        return None if status == 503 else status

    found: int = await wait_until(once, reason=f"{path} is answered")
    return found


async def test_reads_write_nothing_where_the_ledger_is(own: OwnShop, side: ValkeyServer) -> None:
    """Whether there is such a thing or not, and whoever asks."""
    shop, client = own.shop, await own.shop.client()
    sale = await shop.open_sale(units=5)
    user = new_user_id()
    order = (await shop.buy(sale, user)).json()["id"]
    await shop.drained(sale)
    there = ["/v1/products", "/v1/products?limit=7", f"/v1/products/{sale.product_id}", "/v1/seckill/sales",
             f"/v1/seckill/sales/{sale.id}", f"/v1/orders/{order}", "/v1/orders"]  # fmt: skip
    made_up = [f"/v1/products/{10**9 - 1}", f"/v1/seckill/sales/{10**8}", f"/v1/orders/{uuid.uuid4()}"]
    before = await written(shop.redis)

    for _ in range(3):
        found = await asyncio.gather(*(answered(client, path, shop.headers(user)) for path in there + made_up))
        assert found == [200] * len(there) + [404] * len(made_up)

    assert await written(shop.redis) == before
    kept = connect(side.url, shop.settings)
    cached = {key for key in await kept.keys("shop:*") if b"{cache:" in key}
    assert any(b"product:%d}" % sale.product_id in key for key in cached)
    assert not any(b"999999999" in key for key in cached)
    await kept.aclose(close_connection_pool=True)


async def test_a_side_server_that_is_killed_in_mid_sale_costs_nothing(own: OwnShop, side: ValkeyServer) -> None:
    """It comes back empty: limits, cache and scripts are there again without anybody doing anything."""
    shop, client = own.shop, await own.shop.client()
    sale = await shop.open_sale(units=200)
    product, cached = f"/v1/products/{sale.product_id}", f"shop:{{cache:product:{sale.product_id}}}:value"
    assert outcome(await shop.buy(sale, new_user_id())) == "reserved"
    assert await answered(client, product, {}) == 200

    side.kill()
    assert [outcome(await shop.buy(sale, new_user_id())) for _ in range(3)] == ["reserved"] * 3
    assert await answered(client, product, {}) == 200
    side.start()
    kept = connect(side.url, shop.settings)

    async def works() -> bool:
        await client.get(product)
        assert outcome(await shop.buy(sale, new_user_id())) == "reserved"
        scripts = (await kept.info("commandstats")).get("cmdstat_evalsha", {"calls": 0, "failed_calls": 0})
        return bool(scripts["calls"] > scripts["failed_calls"] and await kept.exists(cached))

    await wait_until(works, within=4, reason="the limiter and the cache use it again")
    await kept.aclose(close_connection_pool=True)
    await shop.drained(sale)
    assert (await shop.audit(sale)).balanced
