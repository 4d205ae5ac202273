"""Everyone reads the catalogue through the cache; nobody but an admin sees how many units there are."""

import re
from typing import Any

import pytest
import redis.asyncio as aioredis
from sqlalchemy import text

from shop.auth import COMMAND_LINE
from shop.cache import Cache
from shop.database import Database
from shop.products import service
from shop.products.schemas import ProductCreate
from shop.settings import Settings
from tests.harness import Shop, keyed

ID_MAX = 2**63 - 1
PHONE: dict[str, Any] = {"name": "Phone", "price_minor": 19_900, "currency": "EUR"}


async def create(shop: Shop, **fields: Any) -> int:
    body = PHONE | fields
    answer = await (await shop.client()).post("/v1/admin/products", json=body, headers=shop.admin_headers())
    assert answer.status_code == 201, answer.text
    product_id: int = answer.json()["id"]
    return product_id


async def change_behind_the_cache(database: Database, product_id: int, name: str) -> None:
    async with database.transaction() as session:
        await session.execute(text("UPDATE products SET name = :name WHERE id = :id"), {"name": name, "id": product_id})


async def test_a_new_product_can_be_read_by_everyone(shop: Shop) -> None:
    client, admin = await shop.client(), shop.admin_headers()

    created = await client.post(
        "/v1/admin/products",
        json={"name": " Phone ", "description": "Blue.", "price_minor": 19_900, "currency": "EUR", "stock": 500},
        headers=admin,
    )
    read = await client.get(created.headers["Location"])

    assert created.status_code == 201
    assert created.json()["stock"] == 500
    assert read.status_code == 200
    assert read.headers["Content-Type"] == "application/json"
    assert read.json() == {
        "id": created.json()["id"],
        "name": "Phone",
        "description": "Blue.",
        "object": "product",
        "price_minor": 19_900,
        "currency": "EUR",
        "availability": "in_stock",
    }


@pytest.mark.parametrize(
    ("stock", "band"), [(0, "out_of_stock"), (1, "low"), (10, "low"), (11, "in_stock"), (987_654, "in_stock")]
)
async def test_the_public_sees_a_band_and_never_the_number(shop: Shop, stock: int, band: str) -> None:
    client = await shop.client()
    product_id = await create(shop, stock=stock)

    product = await client.get(f"/v1/products/{product_id}")
    page = await client.get("/v1/products")

    assert product.json()["availability"] == band
    assert page.json()["data"][0] == product.json()
    assert "stock" not in product.json()
    assert "987654" not in product.text + page.text


async def test_a_product_is_read_from_the_cache(shop: Shop, database: Database) -> None:
    client = await shop.client()
    product_id = await create(shop)
    for path in (f"/v1/products/{product_id}", "/v1/products"):
        first = await client.get(path)
        await change_behind_the_cache(database, product_id, "changed behind the cache")

        assert (await client.get(path)).json() == first.json()
        await change_behind_the_cache(database, product_id, "Phone")


async def test_every_change_is_seen_at_once(shop: Shop) -> None:
    """In the detail and in first pages of every size."""
    client, admin = await shop.client(), shop.admin_headers()
    product_id = await create(shop)

    async def seen(field: str) -> list[Any]:
        product = await client.get(f"/v1/products/{product_id}")
        pages = [await client.get("/v1/products", params={"limit": limit}) for limit in (1, 20)]
        return [product.json()[field], *(page.json()["data"][0][field] for page in pages)]

    assert await seen("availability") == ["out_of_stock"] * 3
    await client.post(f"/v1/admin/products/{product_id}/stock", json={"delta": 3}, headers=keyed(admin))
    assert await seen("availability") == ["low"] * 3
    await client.patch(f"/v1/admin/products/{product_id}", json={"name": "Tablet"}, headers=admin)
    assert await seen("name") == ["Tablet"] * 3


async def test_an_unpublished_product_is_not_there_for_the_public(shop: Shop) -> None:
    client, admin = await shop.client(), shop.admin_headers()
    product_id = await create(shop, published=False)
    path = f"/v1/admin/products/{product_id}"

    async def answers() -> tuple[int, bool, bool]:
        public = await client.get(f"/v1/products/{product_id}")
        pages = [(await client.get(path, headers=admin)).json() for path in ("/v1/products", "/v1/admin/products")]
        listed = [product_id in [product["id"] for product in page["data"]] for page in pages]
        return public.status_code, listed[0], listed[1]

    assert await answers() == (404, False, True)
    await client.patch(path, json={"published": True}, headers=admin)
    assert await answers() == (200, True, True)
    await client.patch(path, json={"published": False}, headers=admin)
    assert await answers() == (404, False, True)


async def test_a_product_that_was_asked_for_too_early_is_there_once_it_exists(shop: Shop) -> None:
    """That it was absent is remembered, but not beyond its creation."""
    client = await shop.client()
    next_id = await create(shop) + 1
    assert [(await client.get(f"/v1/products/{next_id}")).status_code for _ in range(2)] == [404, 404]

    assert await create(shop) == next_id

    assert (await client.get(f"/v1/products/{next_id}")).status_code == 200


@pytest.mark.parametrize("path", ["/v1/products", "/v1/admin/products"])
async def test_the_pages_of_a_list_join_without_gap_or_repeat(shop: Shop, path: str) -> None:
    client, admin = await shop.client(), shop.admin_headers()
    ids = [await create(shop, name=f"Phone {n}") for n in range(7)]
    url = f"{path}?limit=3"
    found: list[int] = []
    while len(found) < len(ids):
        page = await client.get(url, headers=admin)
        found += [product["id"] for product in page.json()["data"]]
        link = re.fullmatch(r'<([^>]+)>; rel="next"', page.headers.get("Link", ""))
        assert bool(link) is page.json()["has_more"]
        url = link[1] if link else ""

    assert found[:7] == ids[::-1]


async def test_a_page_that_is_just_full_is_the_last(
    database: Database, redis: aioredis.Redis, settings: Settings
) -> None:
    cache = Cache(redis, settings)
    async with database.transaction() as session:
        older, newer = [
            (await service.create(session, cache, COMMAND_LINE, ProductCreate(**PHONE))).id for _ in range(2)
        ]

    async def next_cursor(limit: int, starting_after: int | None = None) -> int | None:
        page = await service.read_public_page(database, cache, limit=limit, starting_after=starting_after)
        return page.next_cursor

    assert await next_cursor(1) == newer
    assert await next_cursor(2) is None
    assert await next_cursor(1, starting_after=newer) is None
    assert await next_cursor(1, starting_after=older) is None


async def test_beyond_the_last_product_there_is_an_empty_page(shop: Shop) -> None:
    client = await shop.client()

    assert (await client.get("/v1/products?starting_after=1")).json() == {
        "object": "list",
        "data": [],
        "has_more": False,
    }
    assert (await client.get(f"/v1/products?limit=1&starting_after={ID_MAX}")).status_code == 200


@pytest.mark.parametrize(
    "product_id", ["0", "-1", str(ID_MAX + 1), "9" * 5000, "1.5", "x", "%00", "%7B1%7D", "true", "１２x"]
)
async def test_an_impossible_id_is_refused(shop: Shop, product_id: str) -> None:
    client, admin = await shop.client(), shop.admin_headers()
    answers = [
        await client.get(f"/v1/products/{product_id}"),
        await client.patch(f"/v1/admin/products/{product_id}", json={}, headers=admin),
        await client.post(f"/v1/admin/products/{product_id}/stock", json={"delta": 1}, headers=keyed(admin)),
    ]

    assert {answer.status_code for answer in answers} <= {404, 422}


async def test_an_unknown_id_is_not_found(shop: Shop) -> None:
    client, admin = await shop.client(), shop.admin_headers()
    answers = [
        await client.get(f"/v1/products/{ID_MAX}"),
        await client.patch(f"/v1/admin/products/{ID_MAX}", json={"name": "Phone"}, headers=admin),
        await client.patch(f"/v1/admin/products/{ID_MAX}", json={}, headers=admin),
        await client.post(f"/v1/admin/products/{ID_MAX}/stock", json={"delta": 1}, headers=keyed(admin)),
        await client.post(f"/v1/admin/products/{ID_MAX}/stock", json={"delta": -1}, headers=keyed(admin)),
    ]

    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(404, "not_found")}


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=-1", "limit=x", "limit=", "starting_after=0", f"starting_after={2**63}"]
)
async def test_a_bad_page_is_refused(shop: Shop, query: str) -> None:
    assert (await (await shop.client()).get(f"/v1/products?{query}")).status_code == 422


async def test_cursors_that_a_client_invents_leave_nothing_in_redis(shop: Shop) -> None:
    client = await shop.client()
    before = set(await shop.redis.keys("shop:{cache:*"))
    for n in range(1, 30):
        await client.get("/v1/products", params={"limit": 5, "starting_after": n})

    assert set(await shop.redis.keys("shop:{cache:*")) <= before
