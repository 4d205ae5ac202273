"""Ordinary orders over HTTP: the catalogue's products at its prices, all lines or none, and what is refused."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from shop.bounds import ROW_ID_MAX
from shop.orders.placing import TOTAL_MINOR_MAX
from shop.orders.schemas import LINES_MAX
from shop.products.schemas import PRICE_MINOR_MAX
from shop.seckill.requests import QUANTITY_MAX
from tests.api.answers import problem_of
from tests.harness import Shop, new_user_id, running_shop
from tests.orders.catalogue import (
    cancel,
    change_product,
    count_orders,
    line,
    make_product,
    new_key,
    place,
    placed,
    read,
    stock,
)
from tests.processes import copy_of


async def test_an_order_takes_every_line_from_stock_at_the_catalogues_price(shop: Shop) -> None:
    phone, cover = await make_product(shop, price_minor=19_900), await make_product(shop, price_minor=990)
    user = new_user_id()

    answer = await place(shop, user, line(cover, 3), line(phone, 2))

    assert answer.status_code == 201
    assert "idempotency-replayed" not in answer.headers
    order = answer.json()
    assert answer.headers["location"] == f"/v1/orders/{order['id']}"
    assert order["id"].startswith("00000000-")
    assert (order["sale_id"], order["status"], order["recorded"]) == (None, "reserved", True)
    assert (order["quantity"], order["total_minor"], order["currency"]) == (5, 2 * 19_900 + 3 * 990, "EUR")
    assert order["lines"] == [
        line(cover, 3) | {"price_minor": 990, "currency": "EUR"},
        line(phone, 2) | {"price_minor": 19_900, "currency": "EUR"},
    ]
    assert [entry["event"] for entry in order["timeline"]] == ["reserved"]
    assert await stock(shop, phone, cover) == [8, 7]
    assert (await read(shop, order["id"], user)).json() == order


async def test_an_order_is_held_for_the_time_of_the_settings(shop: Shop) -> None:
    order = await placed(shop, new_user_id(), line(await make_product(shop)))

    held = datetime.fromisoformat(order["expires_at"]) - datetime.fromisoformat(order["reserved_at"])
    assert held == timedelta(seconds=shop.settings.order_hold_seconds)


async def test_an_order_keeps_its_prices_when_the_catalogue_changes(shop: Shop) -> None:
    product, user = await make_product(shop, price_minor=100), new_user_id()
    order = await placed(shop, user, line(product, 2))

    await change_product(shop, product, price_minor=999)

    later = (await read(shop, order["id"], user)).json()
    assert (later["total_minor"], later["lines"]) == (200, order["lines"])


async def test_a_line_that_is_short_leaves_every_other_line_in_stock(shop: Shop) -> None:
    """All lines or none; how many are left is not told."""
    plenty, short = await make_product(shop, stock=100), await make_product(shop, stock=47)
    user = new_user_id()

    answer = await place(shop, user, line(plenty, 5), line(short, 48))

    document = problem_of(answer, 409, "not_enough_stock")
    assert document["product_id"] == short.id
    assert "47" not in answer.text.replace(str(short.id), "").replace(document["request_id"], "")
    assert await stock(shop, plenty, short) == [100, 47]
    assert await count_orders(shop, user) == 0


async def test_the_last_units_can_be_ordered_and_then_no_more(shop: Shop) -> None:
    product = await make_product(shop, stock=2)

    await placed(shop, new_user_id(), line(product, 2))

    problem_of(await place(shop, new_user_id(), line(product)), 409, "not_enough_stock")
    assert await stock(shop, product) == [0]


async def test_a_refused_order_may_be_tried_again_with_the_same_key(shop: Shop) -> None:
    """A refusal leaves nothing behind (I9)."""
    product, user, key = await make_product(shop, stock=0), new_user_id(), new_key()
    problem_of(await place(shop, user, line(product), key=key), 409, "not_enough_stock")
    await change_product(shop, product, stock=1)

    await placed(shop, user, line(product), key=key)


async def test_twenty_lines_are_an_order(shop: Shop) -> None:
    goods = [await make_product(shop, price_minor=number) for number in range(LINES_MAX)]

    order = await placed(shop, new_user_id(), *(line(product) for product in reversed(goods)))

    assert [each["product_id"] for each in order["lines"]] == [product.id for product in reversed(goods)]
    assert order["total_minor"] == sum(range(LINES_MAX))
    assert await stock(shop, *goods) == [9] * LINES_MAX


@pytest.mark.parametrize("quantity", [0, -1, QUANTITY_MAX + 1, 2**31, 10**30, True, "1", 1.0, 1.5, None, [1]], ids=repr)
async def test_a_quantity_that_is_no_number_of_units_is_invalid(shop: Shop, quantity: object) -> None:
    product, user = await make_product(shop), new_user_id()

    document = problem_of(await place(shop, user, line(product, quantity)), 422, "invalid")

    assert document["errors"][0]["pointer"] == "/lines/0/quantity"
    assert await stock(shop, product) == [10]


@pytest.mark.parametrize("product_id", [0, -1, ROW_ID_MAX + 1, 10**30, True, "1", 1.0, None], ids=repr)
async def test_a_product_id_that_is_none_is_invalid(shop: Shop, product_id: object) -> None:
    problem_of(await place(shop, new_user_id(), {"product_id": product_id, "quantity": 1}), 422, "invalid")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"lines": []},
        {"lines": None},
        {"lines": {"product_id": 1, "quantity": 1}},
        {"lines": [1]},
        {"lines": [{}]},
        {"lines": [{"product_id": 1}]},
        {"lines": [{"quantity": 1}]},
        {"lines": [{"product_id": 1, "quantity": 1, "price_minor": 0}]},
        {"lines": [{"product_id": 1, "quantity": 1}], "total_minor": 0},
        {"lines": [{"product_id": number, "quantity": 1} for number in range(1, LINES_MAX + 2)]},
        [],
        "lines",
    ],
    ids=lambda body: repr(body)[:50],
)
async def test_a_body_that_is_no_order_is_invalid(shop: Shop, body: object) -> None:
    """No lines, too many, or more than is asked for: prices above all."""
    headers = shop.headers(key=new_key())

    problem_of(await (await shop.client()).post("/v1/orders", headers=headers, json=body), 422, "invalid")


@pytest.mark.parametrize(
    "text", [b"{", b"\xff", b"lines", b'{"lines": [{"product_id": 1, "quantity": 1}', b"[" * 9_999]
)
async def test_a_body_that_is_not_json_cannot_be_read(shop: Shop, text: bytes) -> None:
    headers = shop.headers(key=new_key()) | {"Content-Type": "application/json"}

    problem_of(await (await shop.client()).post("/v1/orders", headers=headers, content=text), 400, "bad_request")


async def test_a_product_stands_in_one_line_only(shop: Shop) -> None:
    product = await make_product(shop)

    problem_of(await place(shop, new_user_id(), line(product, 1), line(product, 2)), 422, "invalid")

    assert await stock(shop, product) == [10]


@pytest.mark.parametrize("published", [True, False], ids=["unknown", "unpublished"])
async def test_a_product_that_the_public_cannot_see_is_not_found(shop: Shop, *, published: bool) -> None:
    """It is named, and the lines beside it are not taken."""
    known, hidden = await make_product(shop), await make_product(shop, published=published)
    missing = ROW_ID_MAX if published else hidden.id

    document = problem_of(await place(shop, new_user_id(), line(known), line(missing)), 404, "not_found")

    assert document["product_id"] == missing
    assert await stock(shop, known, hidden) == [10, 10]


async def test_an_order_has_one_currency(shop: Shop) -> None:
    euro, dollar = await make_product(shop), await make_product(shop, currency="USD")

    document = problem_of(await place(shop, new_user_id(), line(euro), line(dollar)), 422, "invalid")

    assert "EUR and USD" in document["detail"]
    assert await stock(shop, euro, dollar) == [10, 10]


async def test_an_order_may_cost_as_much_as_any_line_and_no_more(shop: Shop) -> None:
    """A total stays a number that every column can keep."""
    dear = await make_product(shop, price_minor=PRICE_MINOR_MAX, stock=QUANTITY_MAX * 2)
    cheap = await make_product(shop, price_minor=1)

    refused = await place(shop, new_user_id(), line(dear, QUANTITY_MAX), line(cheap))
    order = await placed(shop, new_user_id(), line(dear, QUANTITY_MAX))

    problem_of(refused, 422, "invalid")
    assert order["total_minor"] == TOTAL_MINOR_MAX
    assert await stock(shop, dear, cheap) == [QUANTITY_MAX, 10]


async def test_a_product_that_costs_nothing_can_be_ordered(shop: Shop) -> None:
    assert (await placed(shop, new_user_id(), line(await make_product(shop, price_minor=0))))["total_minor"] == 0


async def test_an_order_needs_a_key(shop: Shop) -> None:
    product = await make_product(shop)

    answer = await (await shop.client()).post("/v1/orders", headers=shop.headers(), json={"lines": [line(product)]})

    problem_of(answer, 400, "idempotency_key_missing")
    assert await stock(shop, product) == [10]


@pytest.mark.parametrize("key", ["", '""', "a b", "x" * 129, "x" * 2_000, "a\tb", "é".encode()], ids=repr)
async def test_a_key_that_is_none_is_refused(shop: Shop, key: str | bytes) -> None:
    product = await make_product(shop)
    headers: dict[str, Any] = {"Authorization": shop.headers()["Authorization"], "Idempotency-Key": key}

    answer = await (await shop.client()).post("/v1/orders", headers=headers, json={"lines": [line(product)]})

    problem_of(answer, 400, "idempotency_key_invalid")
    assert await stock(shop, product) == [10]


async def test_a_key_may_be_as_long_as_a_purchases(shop: Shop) -> None:
    product, user = await make_product(shop), new_user_id()

    order = await placed(shop, user, line(product), key="x" * 128)

    assert (await place(shop, user, line(product), key=f'"{"x" * 128}"')).json() == order


async def test_orders_are_placed_by_those_who_have_a_token(shop: Shop) -> None:
    product = await make_product(shop)
    for headers in ({}, {"Authorization": "Bearer forged"}):
        sent = headers | {"Idempotency-Key": new_key()}
        answer = await (await shop.client()).post("/v1/orders", headers=sent, json={"lines": [line(product)]})
        problem_of(answer, 401, "unauthorized")
    assert await stock(shop, product) == [10]


async def test_the_order_of_somebody_else_is_not_found(shop: Shop) -> None:
    """Neither to read nor to cancel; and the same key of another buyer is another order."""
    product, owner, other, key = await make_product(shop), new_user_id(), new_user_id(), new_key()
    order = await placed(shop, owner, line(product), key=key)

    problem_of(await read(shop, order["id"], other), 404, "not_found")
    problem_of(await cancel(shop, order["id"], other), 404, "not_found")

    assert (await placed(shop, other, line(product), key=key))["id"] != order["id"]
    assert await stock(shop, product) == [8]


async def test_an_ordinary_order_stands_in_the_buyers_list_beside_those_of_sales(shop: Shop) -> None:
    sale, user = await shop.open_sale(units=1), new_user_id()
    bought = await shop.bought(sale, user)
    await shop.drained(sale)
    order = await placed(shop, user, line(await make_product(shop)))

    page = (await (await shop.client()).get("/v1/orders", headers=shop.headers(user))).json()

    assert [(each["id"], each["sale_id"]) for each in page["data"]] == [(order["id"], None), (bought, sale.id)]


async def test_what_the_public_sees_of_a_product_follows_its_orders_at_once(shop: Shop) -> None:
    """Its cached page is forgotten when an order empties it, and when the order's units are back."""
    product, user = await make_product(shop, stock=11), new_user_id()

    async def seen() -> str:
        body: dict[str, str] = (await (await shop.client()).get(f"/v1/products/{product.id}")).json()
        return body["availability"]

    assert await seen() == "in_stock"
    await placed(shop, user, line(product, 1))
    assert await seen() == "low"
    order = await placed(shop, user, line(product, 10))
    assert await seen() == "out_of_stock"
    await cancel(shop, order["id"], user)
    assert await seen() == "low"


async def test_orders_are_limited_as_purchases_are_and_counted_by_themselves(shop: Shop) -> None:
    """Nothing is done for a request above the limit, and the buyer's purchases go on."""
    product, sale, user = await make_product(shop), await shop.open_sale(units=1), new_user_id()
    settings = copy_of(shop.settings, purchase_rate_per_second=0.01, purchase_burst=2)
    async with running_shop(settings, worker=False) as limited:
        for _ in range(2):
            await placed(limited, user, line(product))

        refused = await place(limited, user, line(product))

        problem_of(refused, 429, "rate_limited")
        assert refused.headers["ratelimit"].startswith('"order"')
        await placed(limited, new_user_id(), line(product))
        await limited.until_loaded(sale)
        assert (await limited.buy(sale, user)).status_code == 202
    assert await stock(shop, product) == [7]
