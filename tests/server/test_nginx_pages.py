"""nginx takes the crowd: the pages of sales are kept there for a moment, and nothing that is anybody's own is."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from shop.sales.models import Sale
from tests.harness import Shop, new_user_id, running_shop, wait_until
from tests.processes import copy_of
from tests.server.nginx import Edge, edge, needs_nginx

READERS, READS_EACH = 50, 20
# A page is a second old and another one while the next is fetched; nginx counts in whole seconds.
SEEN_SECONDS_MAX = 3.2

pytestmark = needs_nginx


class Requests(Counter[str]):
    """How often each path was asked for at the shop."""


@pytest.fixture(scope="module")
async def behind(live_shop: Shop) -> AsyncIterator[Shop]:
    """A second API of the running shop, which trusts the nginx before it."""
    settings = copy_of(live_shop.settings, trusted_proxies="127.0.0.1")
    async with running_shop(settings, worker=False) as shop:
        yield shop


@pytest.fixture
async def asked() -> Requests:
    return Requests()


@pytest.fixture
async def front(behind: Shop, asked: Requests, tmp_path: Path) -> AsyncIterator[Edge]:
    """The edge of that shop; a relay between them counts what comes through."""
    port = urlsplit(behind.base_url).port or 0

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)

        async def back() -> None:
            while data := await there_reader.read(65536):
                writer.write(data)
            writer.close()

        returning = asyncio.create_task(back())
        while data := await reader.read(65536):
            for line in data.split(b"\r\n"):
                if line.endswith(b" HTTP/1.1"):
                    asked[line.decode().rpartition(" ")[0]] += 1
            there_writer.write(data)
        there_writer.close()
        await returning

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    async with edge(tmp_path, apis=[server.sockets[0].getsockname()[1]], trusted="127.0.9.1") as found:
        yield found
    server.close()


def page_of(sale: Sale) -> str:
    return f"/v1/seckill/sales/{sale.id}"


async def test_a_crowd_on_a_sales_page_is_a_few_reads_at_the_shop(shop: Shop, front: Edge, asked: Requests) -> None:
    """Whatever else is in their query; each answer has the id of its own request."""
    sale = await shop.open_sale(units=5)
    async with front.client() as client:

        async def read(reader: int) -> list[httpx.Response]:
            return [await client.get(f"{page_of(sale)}?utm={reader}-{n}") for n in range(READS_EACH)]

        found = [answer for each in await asyncio.gather(*map(read, range(READERS))) for answer in each]

        async def is_known() -> bool:
            """On a machine that stands still the page may become another one between the two."""
            seen = await client.get(page_of(sale))
            again = await client.get(page_of(sale), headers={"If-None-Match": seen.headers["etag"]})
            return (again.status_code, again.content) == (304, b"")

        await wait_until(is_known, reason="who has the page is told that it is the same")

    assert Counter(answer.status_code for answer in found) == {200: READERS * READS_EACH}
    assert len({answer.headers["x-request-id"] for answer in found}) == READERS * READS_EACH
    assert {answer.json()["id"] for answer in found} == {sale.id}
    # One a second, and those who have not waited for it: on a slow machine they are more.
    assert sum(asked.values()) <= READERS * READS_EACH / 4


async def test_a_pause_is_seen_through_nginx_in_time(shop: Shop, front: Edge) -> None:
    sale = await shop.open_sale(units=5)
    async with front.client() as client:

        async def phase() -> str:
            return str((await client.get(page_of(sale))).json()["phase"])

        async def paused() -> bool:
            return await phase() == "paused"

        assert await phase() == "open"
        await shop.change(sale, "pause")
        began = time.monotonic()
        await wait_until(paused, reason="the page says that the sale is paused")
        assert time.monotonic() - began < SEEN_SECONDS_MAX


async def test_nothing_that_is_anybodys_own_is_shared(shop: Shop, behind: Shop, front: Edge, asked: Requests) -> None:
    """Purchases pass, each buyer sees their order and nobody else's, and a token takes a page past the cache."""
    sale = await shop.open_sale(units=5)
    await behind.until_loaded(sale)
    buyers = [new_user_id(), new_user_id()]
    async with front.client() as client:
        orders = [
            (await client.post(f"{page_of(sale)}/orders", json={"quantity": 1}, headers=shop.headers(buyer))).json()[
                "id"
            ]
            for buyer in buyers
        ]
        seen = [
            [(await client.get(f"/v1/orders/{order}", headers=shop.headers(buyer))).status_code for order in orders]
            for buyer in buyers
        ]
        lists = [(await client.get("/v1/orders", headers=shop.headers(buyer))).status_code for buyer in buyers]
        for _ in range(2):
            await client.get(page_of(sale), headers=shop.headers(buyers[0]))

    assert len(set(orders)) == 2
    assert seen == [[200, 404], [404, 200]]
    assert lists == [200, 200]
    assert asked[f"POST {page_of(sale)}/orders"] == 2
    assert asked[f"GET {page_of(sale)}"] == 2


async def test_a_query_decides_only_what_the_shop_would_let_it(shop: Shop, front: Edge) -> None:
    """A page of another size, a forged limit, a path or a page of another origin is no answer for others."""
    await shop.open_sale(units=5)
    sale = await shop.open_sale(units=5)
    async with front.client() as client:

        async def size(query: str) -> int:
            return len((await client.get(f"/v1/seckill/sales{query}")).json()["data"])

        assert [await size("?limit=1&limit=2"), await size("?limit=1"), await size("?limit=2")][1:] == [1, 2]
        assert await size("") > 1
        assert await size("?l%69mit=1") == 1
        assert await size("?utm=x") == await size("")
        assert [(await client.get(f"/v1/seckill/sales?limit={limit}")).status_code for limit in ("0", "x", "999")] == [
            422
        ] * 3
        odd = await client.get(f"/v1/seckill/%73ales/{sale.id}")
        plain = await client.get(page_of(sale))
        later = await client.get(f"/v1/seckill/sales?starting_after={sale.id}&limit=1")

    assert (plain.status_code, plain.json()["id"]) == (200, sale.id)
    assert odd.status_code in {200, 404}
    assert later.json()["data"][0]["id"] < sale.id
