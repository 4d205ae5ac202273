"""The hot list: what readers of all processes look at, and only what the public may see."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from shop.products.hot import COUNTED_MAX, SCALED_AT, SCORES, TOLD_MAX, HotProducts
from shop.redis import load_scripts
from tests.api.answers import problem_of
from tests.harness import Shop, running_shop, wait_until

HOT = "/v1/products/hot"


@pytest.fixture(autouse=True)
async def _nothing_is_hot(shop: Shop) -> None:
    """Other tests read products as well."""
    await shop.redis.delete(SCALED_AT, SCORES)


@pytest.fixture
async def other(shop: Shop) -> AsyncIterator[Shop]:
    """Another process of the same shop."""
    async with running_shop(shop.settings, worker=False) as found:
        yield found


async def read(shop: Shop, product_id: int, times: int, **headers: str) -> None:
    path = f"/v1/products/{product_id}"
    answers = await asyncio.gather(*(answered(shop, path, **headers) for _ in range(times)))
    assert {answer.status_code for answer in answers} <= {200, 304}


async def answered(shop: Shop, path: str, **headers: str) -> httpx.Response:
    """The answer; a machine that stands still says "later" before, which is no read."""
    client = await shop.client()

    async def once() -> httpx.Response | None:
        answer = await client.get(path, headers=headers)
        return None if answer.status_code == 503 else answer

    found: httpx.Response = await wait_until(once, reason=f"{path} is answered")
    return found


async def hottest(shop: Shop) -> list[int]:
    """The list of this process; a process may tell of what tests before have read."""
    answer = await answered(shop, f"{HOT}?limit=100")
    assert answer.status_code == 200
    return [product["id"] for product in answer.json()["data"]]


async def until_hottest(shop: Shop, *expected: int) -> None:
    async def seen() -> bool:
        return [each for each in await hottest(shop) if each in expected] == list(expected)

    await wait_until(seen, reason=f"the hottest are {expected}")


async def test_what_is_read_most_in_all_processes_comes_first(shop: Shop, other: Shop) -> None:
    """A 304 is a read as well; what is not there is none."""
    phone, tablet, radio = [(await shop.make_product()).id for _ in range(3)]
    await read(shop, radio, 60)
    await read(shop, phone, 50)
    await read(other, phone, 40, **{"If-None-Match": "*"})
    await read(other, tablet, 30)
    for _ in range(120):
        await (await shop.client()).get(f"/v1/products/{radio + 100_000}")

    for each in (shop, other):
        await until_hottest(each, phone, radio, tablet)
    assert max(int(each) for each in await shop.redis.zrange(SCORES, 0, -1)) == radio
    client = await shop.client()
    short, long = [(await answered(shop, f"{HOT}?limit={limit}")).json() for limit in (2, 100)]
    assert (short["object"], len(short["data"]), short["has_more"]) == ("list", 2, False)
    assert (await client.get(f"/v1/products/{phone}")).json() in long["data"]


async def test_a_product_that_is_taken_off_is_hot_no_more(shop: Shop) -> None:
    """At once where it was taken off, as it is in the catalogue."""
    phone, tablet = [(await shop.make_product()).id for _ in range(2)]
    await read(shop, phone, 50)
    await read(shop, tablet, 20)
    await until_hottest(shop, phone, tablet)

    await (await shop.client()).patch(
        f"/v1/admin/products/{phone}", json={"published": False}, headers=shop.admin_headers()
    )

    found = await hottest(shop)
    assert tablet in found
    assert phone not in found


async def test_the_list_is_a_public_page(shop: Shop) -> None:
    client = await shop.client()

    async def is_known() -> bool:
        """Tests before may have read something, so that the list becomes another one between the two."""
        first = await answered(shop, HOT)
        again = await answered(shop, HOT, **{"If-None-Match": first.headers["etag"]})
        return first.headers["cache-control"] == "public, no-cache" and (again.status_code, again.content) == (304, b"")

    await wait_until(is_known, reason="who has the list is told that it is the same")
    for limit in ("0", "101", "x", ""):
        problem_of(await client.get(HOT, params={"limit": limit}), 422, "invalid")


async def test_a_process_counts_a_bounded_number_of_products(shop: Shop) -> None:
    """And tells of the hottest of them."""
    await load_scripts(shop.redis)
    hot = HotProducts(shop.database, shop.redis, shop.settings)
    for product_id in range(1, COUNTED_MAX + 1):
        hot.count(product_id)
        hot.count(COUNTED_MAX // 2)

    for _ in range(9):
        hot.count(COUNTED_MAX + 1)

    await hot.merge()

    [(first, score)] = await shop.redis.zrevrange(SCORES, 0, 0, withscores=True)
    assert (int(first), score) == (COUNTED_MAX // 2, COUNTED_MAX + 1)
    assert await shop.redis.zscore(SCORES, COUNTED_MAX + 1) is None
    assert TOLD_MAX <= await shop.redis.zcard(SCORES) < 2 * TOLD_MAX
