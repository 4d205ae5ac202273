"""Stock calls of admins: a key moves units once, whatever happens to the request or to its answer."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from shop.products.models import Product
from shop.sales.models import Sale
from shop.settings import Settings
from tests.api.answers import problem_of
from tests.harness import Shop, keyed, new_key, wait_until
from tests.processes import own_shop
from tests.server.raw import wire

AT_ONCE = 50


def stock_path(product_id: int) -> str:
    return f"/v1/admin/products/{product_id}/stock"


def units_path(sale: Sale) -> str:
    return f"/v1/admin/sales/{sale.id}/stock"


async def post(shop: Shop, path: str, delta: object, headers: Mapping[str, str]) -> httpx.Response:
    return await (await shop.client()).post(path, json={"delta": delta}, headers=headers)


async def stock_of(shop: Shop, product_id: int) -> int:
    async with shop.database.transaction() as session:
        product = await session.get(Product, product_id)
    assert product is not None
    return product.stock


def is_replay(answer: httpx.Response) -> bool:
    return bool(answer.headers.get("idempotency-replayed") == "true")


async def test_50_requests_at_once_with_one_key_move_the_stock_once(shop: Shop) -> None:
    product, headers = await shop.make_product(stock=5), keyed(shop.admin_headers())

    answers = await asyncio.gather(*(post(shop, stock_path(product.id), 7, headers) for _ in range(AT_ONCE)))

    assert {(answer.status_code, answer.content) for answer in answers} == {(200, answers[0].content)}
    assert answers[0].json()["stock"] == await stock_of(shop, product.id) == 12
    assert sum(not is_replay(answer) for answer in answers) == 1


async def test_50_requests_at_once_with_one_key_change_the_sale_once(shop: Shop) -> None:
    sale, headers = await shop.open_sale(units=5, stock=100), keyed(shop.admin_headers())

    answers = await asyncio.gather(*(post(shop, units_path(sale), 7, headers) for _ in range(AT_ONCE)))

    assert {(answer.status_code, answer.content) for answer in answers} == {(200, answers[0].content)}
    assert answers[0].json()["outcome"] == "applied"
    row = await shop.drained(sale)
    assert (row.units, row.changes, await stock_of(shop, sale.product_id)) == (12, 1, 88)
    assert sum(not is_replay(answer) for answer in answers) == 1


async def test_an_answer_that_was_lost_is_told_again(shop: Shop) -> None:
    """The connection is cut while the request is at work; in between, the stock moved on."""
    product, key = await shop.make_product(stock=5), new_key()
    headers = shop.admin_headers(key=key)
    body = b'{"delta":3}'
    request = (
        f"POST {stock_path(product.id)} HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n"
        f"Authorization: {headers['Authorization']}\r\nIdempotency-Key: {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    async with wire(shop) as connection:
        connection.send(request)
        await connection.sent()

    async def moved() -> bool:
        return await stock_of(shop, product.id) == 8

    await wait_until(moved, reason="the lost request was carried out")
    await post(shop, stock_path(product.id), 100, keyed(headers))
    answer = await post(shop, stock_path(product.id), 3, headers)

    assert (answer.status_code, answer.json()["stock"], is_replay(answer)) == (200, 8, True)
    assert await stock_of(shop, product.id) == 108


async def test_a_change_that_was_committed_by_a_process_that_died_is_told_as_it_ended(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """Killed between the commit and the answer: whoever is asked with the key knows what the ledger made of it."""
    async with own_shop(fresh_settings, tmp_path, worker_here=True) as own:
        sale = await own.shop.open_sale(units=5, stock=100)
        dying = own.through(await own.processes.start_api("dying", SHOP_FAULT="before_answer"))
        headers = keyed(own.shop.admin_headers())

        with pytest.raises(httpx.TransportError):
            await post(dying, units_path(sale), 7, headers)
        answer = await post(own.shop, units_path(sale), 7, headers)

        assert (answer.status_code, answer.json()["outcome"], answer.json()["n"]) == (200, "applied", 1)
        assert is_replay(answer)
        row = await own.shop.drained(sale)
        assert (row.units, row.changes, await stock_of(own.shop, sale.product_id)) == (12, 1, 88)
        await (await dying.client()).aclose()


async def test_a_change_that_the_ledger_refused_is_refused_again(shop: Shop) -> None:
    """It has a number, so it was carried out: the repeat asks the ledger for nothing, even when there are units now."""
    sale = await shop.open_sale(units=5, stock=100)
    await shop.rush(sale, buyers=3)
    await shop.drained(sale)
    headers = keyed(shop.admin_headers())

    first = problem_of(await post(shop, units_path(sale), -4, headers), 409, "change_refused")
    await shop.change(sale, "stock", {"delta": 50})
    answer = await post(shop, units_path(sale), -4, headers)

    again = problem_of(answer, 409, "change_refused")
    assert (again["reason"], again["detail"]) == (first["reason"], first["detail"])
    assert is_replay(answer)
    assert (await shop.drained(sale)).units == 55


@pytest.mark.parametrize("of_sale", [False, True], ids=["product", "sale"])
async def test_a_refusal_leaves_the_key_free(shop: Shop, of_sale: bool) -> None:
    """What was refused before it did anything is not kept: with more in stock, the same request succeeds."""
    sale, headers = await shop.open_sale(units=5, stock=5), keyed(shop.admin_headers())
    path, delta = (units_path(sale), 1) if of_sale else (stock_path(sale.product_id), -1)

    problem_of(await post(shop, path, delta, headers), 409, "not_enough_stock")
    await post(shop, stock_path(sale.product_id), 1, keyed(shop.admin_headers()))
    answer = await post(shop, path, delta, headers)

    assert (answer.status_code, is_replay(answer)) == (200, False)
    assert await stock_of(shop, sale.product_id) == 0


@pytest.mark.parametrize("of_sale", [False, True], ids=["product", "sale"])
async def test_a_key_with_another_body_is_refused_and_moves_nothing(shop: Shop, of_sale: bool) -> None:
    sale, headers = await shop.open_sale(units=5, stock=10), keyed(shop.admin_headers())
    path = units_path(sale) if of_sale else stock_path(sale.product_id)
    await post(shop, path, 1, headers)
    before = await stock_of(shop, sale.product_id)

    problem_of(await post(shop, path, 2, headers), 422, "idempotency_mismatch")

    assert await stock_of(shop, sale.product_id) == before


async def test_a_key_that_was_used_for_another_product_is_refused(shop: Shop) -> None:
    one, other = await shop.make_product(stock=5), await shop.make_product(stock=5)
    headers = keyed(shop.admin_headers())
    await post(shop, stock_path(one.id), 1, headers)

    problem_of(await post(shop, stock_path(other.id), 1, headers), 422, "idempotency_mismatch")

    assert await stock_of(shop, other.id) == 5


async def test_the_same_key_of_another_admin_is_another_request(shop: Shop) -> None:
    product, key = await shop.make_product(stock=5), new_key()

    answers = [
        await post(shop, stock_path(product.id), 1, shop.headers(name, role="admin", key=key))
        for name in ("ann", "bob")
    ]

    assert [(answer.json()["stock"], is_replay(answer)) for answer in answers] == [(6, False), (7, False)]


async def test_a_key_is_the_same_with_quotes_and_without(shop: Shop) -> None:
    product, key = await shop.make_product(stock=5), new_key()

    answers = [await post(shop, stock_path(product.id), 1, shop.admin_headers(key=each)) for each in (key, f'"{key}"')]

    assert [(answer.json()["stock"], is_replay(answer)) for answer in answers] == [(6, False), (6, True)]


@pytest.mark.parametrize("of_sale", [False, True], ids=["product", "sale"])
@pytest.mark.parametrize(
    ("key", "code"),
    [
        (None, "idempotency_key_missing"),
        ("", "idempotency_key_invalid"),
        ("two words", "idempotency_key_invalid"),
        ("k" * 129, "idempotency_key_invalid"),
    ],
    ids=["missing", "empty", "space", "long"],
)
async def test_without_a_readable_key_nothing_moves(shop: Shop, key: str | None, code: str, of_sale: bool) -> None:
    sale = await shop.draft_sale(units=5, stock=5)
    path = units_path(sale) if of_sale else stock_path(sale.product_id)
    headers: dict[str, Any] = shop.admin_headers(key=key)

    problem_of(await post(shop, path, 1, headers), 400, code)

    assert await stock_of(shop, sale.product_id) == 5
