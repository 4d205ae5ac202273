"""What one buyer may hold of the catalogue without paying is bounded, however many requests come at once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import update

from shop.orders.models import Order, OrderStatus
from shop.settings import Settings
from tests.api.answers import problem_of
from tests.harness import Shop, new_user_id, running_shop
from tests.orders.catalogue import cancel, line, make_product, new_key, place, placed, stock
from tests.processes import copy_of

ORDERS_MAX, UNITS_MAX = 3, 10
BURST = 30
# Whose orders are of different products does not wait for the other's.
GOODS = 10


@pytest.fixture
async def strict(fresh_settings: Settings) -> AsyncIterator[Shop]:
    """A shop in which a buyer may have little open."""
    settings = copy_of(fresh_settings, open_orders_per_user_max=ORDERS_MAX, open_units_per_user_max=UNITS_MAX)
    async with running_shop(settings, worker=False) as shop:
        yield shop


async def test_a_buyer_has_at_most_so_many_open_orders_and_units_however_many_come_at_once(strict: Shop) -> None:
    goods = [await make_product(strict, stock=10_000) for _ in range(GOODS)]
    for quantity, most in ((1, ORDERS_MAX), (4, UNITS_MAX // 4)):
        user = new_user_id()
        answers = await asyncio.gather(*(place(strict, user, line(goods[n % GOODS], quantity)) for n in range(BURST)))
        assert Counter(answer.status_code for answer in answers) == {201: most, 409: BURST - most}
        refused = next(answer for answer in answers if answer.status_code == 409)
        document = problem_of(refused, 409, "too_many_open_orders")
        assert document["open_orders"] <= ORDERS_MAX
        assert document["open_units"] <= UNITS_MAX

    product = goods[0]
    assert sum(await stock(strict, *goods)) == GOODS * 10_000 - ORDERS_MAX - UNITS_MAX // 4 * 4
    problem_of(await place(strict, new_user_id(), line(product, UNITS_MAX + 1)), 409, "too_many_open_orders")
    assert (await place(strict, new_user_id(), line(product, UNITS_MAX))).status_code == 201


async def test_what_is_cancelled_or_paid_is_open_no_more_and_a_repeat_is_none(strict: Shop) -> None:
    """What came before the bound was reached is told again; a purchase in a sale does not count."""
    product, user, key = await make_product(strict, stock=100), new_user_id(), new_key()
    ids = [(await placed(strict, user, line(product), key=key))["id"]]
    ids += [(await placed(strict, user, line(product)))["id"] for _ in range(ORDERS_MAX - 1)]

    problem_of(await place(strict, user, line(product)), 409, "too_many_open_orders")
    repeated = await place(strict, user, line(product), key=key)
    assert (repeated.status_code, repeated.json()["id"]) == (200, ids[0])

    assert (await cancel(strict, ids[0], user)).status_code == 200
    await placed(strict, user, line(product))
    async with strict.database.transaction() as session:
        await session.execute(update(Order).where(Order.id == ids[1]).values(status=OrderStatus.PAID))
    await placed(strict, user, line(product))
    problem_of(await place(strict, user, line(product)), 409, "too_many_open_orders")


async def test_by_default_one_buyer_cannot_hold_a_whole_catalogue(shop: Shop) -> None:
    """Twenty lines of ten thousand units each, in one order or one after the other."""
    goods = [await make_product(shop, stock=10_000) for _ in range(3)]
    user = new_user_id()

    problem_of(await place(shop, user, *(line(each, 10_000) for each in goods)), 409, "too_many_open_orders")
    assert (await place(shop, user, line(goods[0], 10_000))).status_code == 201
    problem_of(await place(shop, user, line(goods[1], 10_000)), 409, "too_many_open_orders")

    assert await stock(shop, *goods) == [0, 10_000, 10_000]
