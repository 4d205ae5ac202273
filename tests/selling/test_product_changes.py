"""Admins change products; the stock only ever moves by a difference and never below zero."""

import asyncio
from typing import Any

import pytest
import redis.asyncio as aioredis
from sqlalchemy import select

from shop.admin_events import AdminEvent
from shop.auth import COMMAND_LINE
from shop.cache import Cache
from shop.database import Database
from shop.errors import Invalid, NotEnoughStock, ProductNotFound
from shop.products import repository, service
from shop.products.models import Product
from shop.products.reading import ProductReader
from shop.products.schemas import STOCK_MAX, ProductCreate, ProductPatch
from shop.settings import Settings
from tests.harness import Shop, keyed

PHONE: dict[str, Any] = {"name": "Phone", "price_minor": 19_900, "currency": "EUR"}


@pytest.fixture
def cache(redis: aioredis.Redis, settings: Settings) -> Cache:
    return Cache(redis, settings)


async def make_product(database: Database, cache: Cache, **fields: Any) -> Product:
    async with database.transaction() as session:
        return await service.create(session, cache, COMMAND_LINE, ProductCreate(**(PHONE | fields)))


async def move_stock(database: Database, cache: Cache, product_id: int, delta: int) -> Product:
    async with database.transaction() as session:
        return await service.move_stock(session, cache, COMMAND_LINE, product_id, delta)


async def stock_of(database: Database, product_id: int) -> int:
    async with database.transaction() as session:
        return (await session.scalars(select(Product.stock).where(Product.id == product_id))).one()


async def events(database: Database, product_id: int) -> list[AdminEvent]:
    async with database.transaction() as session:
        statement = select(AdminEvent).where(AdminEvent.subject_id == str(product_id)).order_by(AdminEvent.id)
        return [event for event in await session.scalars(statement) if event.subject == "product"]


async def read(shop: Shop, product_id: int) -> dict[str, Any]:
    """The product as admins see it, which is the first of the list that begins with it."""
    query = {"limit": 1, "starting_after": product_id + 1}
    page = await (await shop.client()).get("/v1/admin/products", params=query, headers=shop.admin_headers())
    product: dict[str, Any] = page.json()["data"][0]
    return product


async def test_the_stock_never_goes_below_zero_however_many_take_at_once(database: Database, cache: Cache) -> None:
    product = await make_product(database, cache, stock=20)

    answers = await asyncio.gather(
        *(move_stock(database, cache, product.id, -3) for _ in range(40)), return_exceptions=True
    )

    assert sum(isinstance(answer, Product) for answer in answers) == 6
    assert sum(isinstance(answer, NotEnoughStock) for answer in answers) == 34
    assert await stock_of(database, product.id) == 2


async def test_differences_that_meet_all_count(database: Database, cache: Cache) -> None:
    product = await make_product(database, cache, stock=100)

    await asyncio.gather(*(move_stock(database, cache, product.id, delta) for delta in [7, -5] * 15))

    assert await stock_of(database, product.id) == 130


async def test_units_are_taken_whole_or_not_at_all(database: Database, cache: Cache) -> None:
    """What the sales use: take for a sale, give back what is left of it."""
    product = await make_product(database, cache, stock=10)
    async with database.transaction() as session:
        assert await repository.take_stock(session, product.id, 8)
        assert not await repository.take_stock(session, product.id, 3)
        assert not await repository.take_stock(session, product.id + 1, 1)
        await repository.give_stock(session, product.id, 5)

    assert await stock_of(database, product.id) == 7


async def test_a_patch_changes_what_it_names_and_nothing_else(shop: Shop) -> None:
    client, admin = await shop.client(), shop.admin_headers()
    created = (await client.post("/v1/admin/products", json=PHONE | {"stock": 5}, headers=admin)).json()

    changed = await client.patch(f"/v1/admin/products/{created['id']}", json={"price_minor": 1}, headers=admin)

    assert changed.status_code == 200
    assert changed.json() == created | {"price_minor": 1, "updated_at": changed.json()["updated_at"]}
    assert changed.json()["updated_at"] > created["updated_at"]


async def test_a_patch_cannot_touch_the_stock(shop: Shop) -> None:
    """An admin who saves a page that is a minute old must not bring sold units back (F35)."""
    client, admin = await shop.client(), shop.admin_headers()
    product = (await client.post("/v1/admin/products", json=PHONE | {"stock": 5}, headers=admin)).json()

    answer = await client.patch(
        f"/v1/admin/products/{product['id']}", json={"name": "Tablet", "stock": 500}, headers=admin
    )

    assert answer.status_code == 422
    assert await read(shop, product["id"]) == product
    assert "stock" not in ProductPatch.model_fields


async def test_a_patch_and_a_sale_at_once_both_count(database: Database, cache: Cache) -> None:
    product = await make_product(database, cache, stock=50)

    async def patch(n: int) -> None:
        async with database.transaction() as session:
            await service.change(session, cache, COMMAND_LINE, product.id, ProductPatch(name=f"Phone {n}"))

    await asyncio.gather(
        *(patch(n) for n in range(20)), *(move_stock(database, cache, product.id, -1) for _ in range(20))
    )

    assert await stock_of(database, product.id) == 30


async def test_every_change_is_recorded_with_who_made_it(shop: Shop) -> None:
    """And what was refused, or changed nothing, is not."""
    client, admin = await shop.client(), shop.headers("grace", role="admin")
    product_id = (await client.post("/v1/admin/products", json=PHONE, headers=admin)).json()["id"]
    path = f"/v1/admin/products/{product_id}"
    await client.patch(path, json={"name": "Tablet"}, headers=admin)
    await client.patch(path, json={}, headers=admin)
    await client.patch(path, json={"stock": 1}, headers=admin)
    await client.post(f"{path}/stock", json={"delta": 7}, headers=keyed(admin))
    await client.post(f"{path}/stock", json={"delta": -8}, headers=keyed(admin))

    recorded = await events(shop.database, product_id)

    assert [event.action for event in recorded] == ["product.created", "product.changed", "product.stock_moved"]
    assert {event.actor_id for event in recorded} == {"grace"}
    assert all(event.address and event.request_id for event in recorded)
    assert recorded[1].details == {"changes": {"name": "Tablet"}}
    assert recorded[2].details == {"delta": 7, "stock": 7}


async def test_a_change_that_is_rolled_back_leaves_the_cache_alone(
    database: Database, redis: aioredis.Redis, settings: Settings, cache: Cache
) -> None:
    product = await make_product(database, cache)
    reader = ProductReader(database, cache, settings)
    before = await reader.read(product.id)
    generation = await redis.get(f"shop:{{cache:product:{product.id}}}:generation")

    async def change_and_fail() -> None:
        async with database.transaction() as session:
            await service.change(session, cache, COMMAND_LINE, product.id, ProductPatch(name="Tablet"))
            raise ProductNotFound

    with pytest.raises(ProductNotFound):
        await change_and_fail()

    assert await reader.read(product.id) == before
    assert await redis.get(f"shop:{{cache:product:{product.id}}}:generation") == generation
    assert [event.action for event in await events(database, product.id)] == ["product.created"]


@pytest.mark.parametrize(
    "changes",
    [
        {"price_minor": -1},
        {"price_minor": 1.0},
        {"price_minor": "1"},
        {"price_minor": True},
        {"price_minor": None},
        {"price_minor": 10**12 + 1},
        {"price_minor": 10**400},
        {"currency": "eur"},
        {"currency": "EURO"},
        {"currency": "EUR\n"},
        {"currency": None},
        {"name": ""},
        {"name": "   "},
        {"name": "a\x00b"},
        {"name": "a\r\nb"},
        {"name": "x" * 201},
        {"name": None},
        {"name": 1},
        {"description": "a\x00b"},
        {"description": "x" * 4_001},
        {"description": None},
        {"published": 1},
        {"published": "yes"},
        {"published": None},
        {"id": 7},
        {"unknown": 1},
    ],
)
async def test_bad_fields_are_refused_on_the_way_in(shop: Shop, changes: dict[str, Any]) -> None:
    """The same rules hold for a new product and for a change of one."""
    client, admin = await shop.client(), shop.admin_headers()
    product = (await client.post("/v1/admin/products", json=PHONE, headers=admin)).json()

    created = await client.post("/v1/admin/products", json=PHONE | changes, headers=admin)
    changed = await client.patch(f"/v1/admin/products/{product['id']}", json=changes, headers=admin)

    assert (created.status_code, changed.status_code) == (422, 422)
    assert await read(shop, product["id"]) == product


@pytest.mark.parametrize("stock", [-1, 1.0, "1", True, None, STOCK_MAX + 1])
async def test_a_new_product_has_a_possible_stock(shop: Shop, stock: object) -> None:
    client, admin = await shop.client(), shop.admin_headers()

    assert (await client.post("/v1/admin/products", json=PHONE | {"stock": stock}, headers=admin)).status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"delta": 0},
        {"delta": 1.0},
        {"delta": 1.5},
        {"delta": "1"},
        {"delta": True},
        {"delta": None},
        {"delta": [1]},
        {"delta": STOCK_MAX + 1},
        {"delta": -STOCK_MAX - 1},
        {"delta": 2**63},
        {"delta": 10**400},
        {"delta": 1, "stock": 5},
        {"stock": 5},
        [],
        1,
    ],
)
async def test_a_bad_stock_change_moves_nothing(shop: Shop, body: object) -> None:
    client, admin = await shop.client(), shop.admin_headers()
    product = (await client.post("/v1/admin/products", json=PHONE | {"stock": 5}, headers=admin)).json()

    answer = await client.post(f"/v1/admin/products/{product['id']}/stock", json=body, headers=keyed(admin))

    assert answer.status_code == 422
    assert await read(shop, product["id"]) == product


async def test_the_stock_has_a_top(shop: Shop) -> None:
    """Beyond it a number would not fit into its column: a refusal, not a crash."""
    client, admin = await shop.client(), shop.admin_headers()
    product = (await client.post("/v1/admin/products", json=PHONE | {"stock": STOCK_MAX}, headers=admin)).json()

    answer = await client.post(
        f"/v1/admin/products/{product['id']}/stock", json={"delta": STOCK_MAX}, headers=keyed(admin)
    )

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


async def test_a_stock_above_the_top_goes_down_but_not_up(database: Database, cache: Cache) -> None:
    """Sales may give back more than anybody may put in."""
    product = await make_product(database, cache, stock=STOCK_MAX)
    async with database.transaction() as session:
        await repository.give_stock(session, product.id, 2 * STOCK_MAX)

    with pytest.raises(Invalid):
        await move_stock(database, cache, product.id, 1)
    await move_stock(database, cache, product.id, -1)

    assert await stock_of(database, product.id) == 3 * STOCK_MAX - 1


async def test_more_than_there_is_cannot_be_taken_out(shop: Shop) -> None:
    client, admin = await shop.client(), shop.admin_headers()
    product = (await client.post("/v1/admin/products", json=PHONE | {"stock": 5}, headers=admin)).json()
    path = f"/v1/admin/products/{product['id']}/stock"

    refused = await client.post(path, json={"delta": -6}, headers=keyed(admin))
    taken = await client.post(path, json={"delta": -5}, headers=keyed(admin))

    assert (refused.status_code, refused.json()["code"]) == (409, "not_enough_stock")
    assert taken.json()["stock"] == 0


async def test_only_admins_change_or_list_everything(shop: Shop) -> None:
    client, shopper = await shop.client(), shop.headers()
    for headers, status in ((shopper, 403), ({}, 401)):
        answers = [
            await client.get("/v1/admin/products", headers=headers),
            await client.post("/v1/admin/products", json=PHONE, headers=headers),
            await client.patch("/v1/admin/products/1", json={}, headers=headers),
            await client.post("/v1/admin/products/1/stock", json={"delta": 1}, headers=headers),
        ]
        assert {answer.status_code for answer in answers} == {status}
