"""The same request again is the same order, in whatever state it is, and has no second effect (I7)."""

import asyncio
from collections import Counter

import pytest

from tests.api.answers import problem_of
from tests.harness import Shop, new_user_id
from tests.orders.catalogue import (
    cancel,
    change_product,
    count_orders,
    line,
    make_product,
    new_key,
    place,
    placed,
    stock,
)

AT_ONCE = 50


async def test_a_repeat_is_the_first_order_and_takes_nothing(shop: Shop) -> None:
    """The order of the lines does not matter."""
    one, two, user, key = await make_product(shop), await make_product(shop), new_user_id(), new_key()
    order = await placed(shop, user, line(one, 1), line(two, 2), key=key)

    again = await place(shop, user, line(two, 2), line(one, 1), key=key)

    assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")
    assert again.headers["location"] == f"/v1/orders/{order['id']}"
    assert again.json() == order
    assert await stock(shop, one, two) == [9, 8]
    assert await count_orders(shop, user) == 1


async def test_a_repeat_for_other_lines_is_a_mismatch_that_names_the_order(shop: Shop) -> None:
    """More units, another product, a line more or less."""
    one, two, user, key = await make_product(shop), await make_product(shop), new_user_id(), new_key()
    order = await placed(shop, user, line(one, 1), line(two, 2), key=key)

    for lines in ([line(one, 1)], [line(one, 2), line(two, 1)], [line(one, 1), line(two, 2), line(10**9)]):
        document = problem_of(await place(shop, user, *lines, key=key), 422, "idempotency_mismatch")
        assert document["order_id"] == order["id"]

    assert await stock(shop, one, two) == [9, 8]


async def test_a_repeat_after_a_cancel_shows_the_cancelled_order(shop: Shop) -> None:
    """A closed order never comes back: a new order needs a new key."""
    product, user, key = await make_product(shop), new_user_id(), new_key()
    order = await placed(shop, user, line(product, 3), key=key)
    cancelled = (await cancel(shop, order["id"], user)).json()

    again = await place(shop, user, line(product, 3), key=key)

    assert (again.status_code, again.json()) == (200, cancelled)
    assert cancelled["status"] == "cancelled"
    assert await stock(shop, product) == [10]
    assert (await placed(shop, user, line(product, 3)))["id"] != order["id"]


@pytest.mark.parametrize(
    "change", [{"published": False}, {"price_minor": 1}, {"currency": "USD"}, {"stock": 0}], ids=repr
)
async def test_a_repeat_is_the_first_order_whatever_became_of_the_product(
    shop: Shop, change: dict[str, object]
) -> None:
    product, user, key = await make_product(shop), new_user_id(), new_key()
    order = await placed(shop, user, line(product), key=key)
    await change_product(shop, product, **change)

    again = await place(shop, user, line(product), key=key)

    assert (again.status_code, again.json()) == (200, order)


async def test_of_many_that_send_the_same_key_at_once_one_makes_the_order_and_all_get_it(shop: Shop) -> None:
    product, user, key = await make_product(shop, stock=AT_ONCE), new_user_id(), new_key()

    answers = await asyncio.gather(*(place(shop, user, line(product), key=key) for _ in range(AT_ONCE)))

    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: AT_ONCE - 1}
    assert len({answer.text for answer in answers}) == 1
    assert await stock(shop, product) == [AT_ONCE - 1]
    assert await count_orders(shop, user) == 1


async def test_of_many_that_send_the_same_key_for_different_lines_one_makes_the_order(shop: Shop) -> None:
    """The others are told that it was for something else, and wait for each other in no circle."""
    goods, user, key = [await make_product(shop) for _ in range(AT_ONCE)], new_user_id(), new_key()
    wishes = [[line(product), line(goods[number - 1])] for number, product in enumerate(goods)]

    answers = await asyncio.gather(*(place(shop, user, *lines, key=key) for lines in wishes))

    assert Counter(answer.status_code for answer in answers) == {201: 1, 422: AT_ONCE - 1}
    [order] = [answer.json() for answer in answers if answer.status_code == 201]
    told = {answer.json()["order_id"] for answer in answers if answer.status_code == 422}
    assert told == {order["id"]}
    assert sum(await stock(shop, *goods)) == 10 * AT_ONCE - 2


async def test_different_keys_at_once_are_different_orders(shop: Shop) -> None:
    product, user = await make_product(shop), new_user_id()

    orders = await asyncio.gather(*(placed(shop, user, line(product)) for _ in range(10)))

    assert len({order["id"] for order in orders}) == 10
    assert await stock(shop, product) == [0]
