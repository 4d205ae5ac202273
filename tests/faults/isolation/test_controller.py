"""A sale that the controller cannot follow keeps no other sale from being loaded, opened, changed or ended."""

import pytest
import redis.asyncio as aioredis
from sqlalchemy import text

from shop.ledger import client as ledger
from shop.ledger.client import RedisClock
from shop.ledger.keys import DIRECTORY, ledger_keys
from shop.redis import scripts_loaded
from shop.sales import service
from shop.sales.controller import Controller
from tests.faults.isolation.counted import one_more_fails, scheduled
from tests.faults.isolation.poisoned import poison
from tests.harness import TESTER, Shop
from tests.lua.ledgers import command

# A row that Python cannot read, and one that it cannot compute with.
POISONS = ["ends_at = '20000-01-01'", "starts_at = '-infinity'"]


async def sold(redis: aioredis.Redis) -> set[int]:
    return {sale.sale_id for sale in await ledger.read_directory(redis, RedisClock())}


@pytest.mark.parametrize("values", POISONS)
async def test_a_sale_that_cannot_be_loaded_keeps_no_other_waiting(
    bare_shop: Shop, controller: Controller, redis: aioredis.Redis, values: str
) -> None:
    sales = [await scheduled(bare_shop) for _ in range(3)]
    await poison(bare_shop, sales[1], values)

    with one_more_fails("controller"):
        await controller.step()
        await controller.step()  # The first loads, the second lists.

    assert await sold(redis) == {sales[0].id, sales[2].id}


@pytest.mark.parametrize("values", POISONS[:1])
async def test_the_scripts_come_back_although_one_sale_cannot_be_compared_and_that_one_is_fenced(
    bare_shop: Shop, controller: Controller, redis: aioredis.Redis, values: str
) -> None:
    """Without the scripts nobody can sell; a sale that nobody can compare must not sell when they are there."""
    sales = [await scheduled(bare_shop) for _ in range(3)]
    await controller.step()
    await poison(bare_shop, sales[1], values)
    await redis.script_flush()

    with one_more_fails("controller"):
        await controller.step()

    assert await scripts_loaded(redis)
    epochs = [await command(redis, "HGET", ledger_keys(sale.id, 1).sale, "epoch") for sale in sales]
    assert epochs == [b"1", b"fenced.1", b"1"]


async def test_a_change_that_cannot_be_read_keeps_no_other_sale_waiting(
    bare_shop: Shop, controller: Controller, redis: aioredis.Redis
) -> None:
    sales = [await scheduled(bare_shop) for _ in range(3)]
    await controller.step()
    for sale in sales:
        async with bare_shop.database.transaction() as session:
            await service.pause(session, TESTER, sale.id)
    async with bare_shop.database.transaction() as session:
        await session.execute(
            text("UPDATE sale_changes SET starts_at = '20000-01-01' WHERE sale_id = :id"), {"id": sales[1].id}
        )

    with one_more_fails("controller"):
        await controller.step()

    states = [await command(redis, "HGET", ledger_keys(sale.id, 1).sale, "state") for sale in sales]
    assert states == [b"paused", b"open", b"paused"]


async def test_an_entry_of_the_directory_that_cannot_be_read_hides_no_other_and_is_written_anew(
    bare_shop: Shop, controller: Controller, redis: aioredis.Redis
) -> None:
    sales = [await scheduled(bare_shop) for _ in range(2)]
    await controller.step()
    await controller.step()
    await command(redis, "HSET", DIRECTORY, sales[0].id, b"\xff{")
    assert await sold(redis) == {sales[1].id}

    await controller.step()

    assert await sold(redis) == {sale.id for sale in sales}
