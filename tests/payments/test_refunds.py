"""An admin gives money back: once, whole, and with the units or without (I8, I11)."""

from typing import Any
from uuid import UUID

import httpx
import pytest

from shop.orders.models import Order, OrderStatus
from shop.payments.repository import add_wanted
from shop.sales.models import Sale, SaleStatus
from tests.harness import Shop, new_user_id, wait_until
from tests.orders.catalogue import line, new_key, placed
from tests.payments.orders import balanced, make_due, one_bought, order_of, pay


async def _paid(shop: Shop, sale: Sale, user_id: str | None = None) -> Order:
    order = await one_bought(shop, sale, user_id)
    async with shop.database.transaction() as session:
        await add_wanted(session, order)
    assert await pay(shop, order) == "applied"
    return order


async def refund(
    shop: Shop,
    order_id: UUID,
    body: dict[str, Any] | None = None,
    *,
    key: str | None = "",
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    """Refund as an admin, with a key of its own unless another one, or None, is given."""
    sent = dict(headers or shop.admin_headers())
    if key is not None:
        sent["Idempotency-Key"] = key or new_key()
    client = await shop.client()
    return await client.post(f"/v1/admin/orders/{order_id}/refund", headers=sent, json=body or {})


async def test_a_refund_with_restock_gives_the_units_and_the_buyers_limit_back(shop: Shop) -> None:
    sale, user = await shop.open_sale(units=1), new_user_id()
    order = await _paid(shop, sale, user)

    answer = await refund(shop, order.id, {"restock": True, "reason": "broken on arrival"})

    assert (answer.status_code, answer.json()["status"]) == (202, "pending")
    assert (await order_of(shop, order.id)).status == OrderStatus.REFUNDED
    await shop.buys(sale, user)
    await balanced(shop, sale, live=1)


async def test_a_refund_without_restock_keeps_the_units(shop: Shop) -> None:
    sale = await shop.open_sale(units=1)
    order = await _paid(shop, sale)

    answer = await refund(shop, order.id, {"restock": False})

    assert answer.json()["restocked"] is False
    assert (await shop.audit(sale)).kept == 1
    await balanced(shop, sale, live=1)


async def test_the_same_key_refunds_once_and_gives_the_same_answer(shop: Shop) -> None:
    sale = await shop.open_sale(units=1)
    order = await _paid(shop, sale)

    first = await refund(shop, order.id, key="again")
    second = await refund(shop, order.id, key="again")

    assert first.status_code == second.status_code == 202
    assert first.json() == second.json()
    assert second.headers["Idempotency-Replayed"] == "true"
    await balanced(shop, sale, live=0)


async def test_a_refund_without_a_key_is_refused(shop: Shop) -> None:
    sale = await shop.open_sale(units=1)
    order = await _paid(shop, sale)

    answer = await refund(shop, order.id, key=None)

    assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key_missing")
    assert (await order_of(shop, order.id)).status == OrderStatus.PAID


@pytest.mark.parametrize("amount", [0, 1, 991, 10**15])
async def test_a_refund_of_anything_but_what_was_captured_is_refused(shop: Shop, amount: int) -> None:
    sale = await shop.open_sale(units=1)
    order = await _paid(shop, sale)

    answer = await refund(shop, order.id, {"amount_minor": amount})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert answer.json()["captured_minor"] == order.total_minor
    assert (await order_of(shop, order.id)).status == OrderStatus.PAID


@pytest.mark.parametrize(
    "body", [{"amount_minor": -1}, {"restock": "yes"}, {"reason": ""}, {"reason": "a\nb"}, {"x": 1}]
)
async def test_a_refund_that_cannot_be_meant_is_refused(shop: Shop, body: dict[str, Any]) -> None:
    sale = await shop.open_sale(units=1)
    order = await _paid(shop, sale)

    assert (await refund(shop, order.id, body)).status_code == 422


async def test_only_a_paid_order_is_refunded(shop: Shop) -> None:
    sale = await shop.open_sale(units=1)
    order = await one_bought(shop, sale)

    answer = await refund(shop, order.id)
    unknown = await refund(shop, UUID("00000001-0000-8000-8000-000000000000"))

    assert (answer.status_code, answer.json()["code"]) == (409, "order_not_paid")
    assert unknown.status_code == 404


async def test_a_shopper_may_not_refund(shop: Shop) -> None:
    sale, user = await shop.open_sale(units=1), new_user_id()
    order = await _paid(shop, sale, user)

    answer = await refund(shop, order.id, headers=shop.headers(user))

    assert answer.status_code == 403
    assert (await order_of(shop, order.id)).status == OrderStatus.PAID


async def test_a_refund_with_restock_after_the_sale_is_settled_goes_to_the_stock(shop: Shop) -> None:
    sale = await shop.open_sale(units=3)
    order = await _paid(shop, sale)
    assert (await shop.change(sale, "close")).status_code in {200, 202}

    async def is_settled() -> bool:
        return (await shop.row(sale)).status == SaleStatus.SETTLED

    await wait_until(is_settled, reason="the sale is settled")
    stock = await _stock(shop, sale)

    await refund(shop, order.id, {"restock": True})

    async def is_back() -> bool:
        return await _stock(shop, sale) == stock + 1

    await wait_until(is_back, reason="the unit is in stock")
    assert (await order_of(shop, order.id)).released_at is not None
    assert (await shop.audit(sale)).balanced


async def test_a_refund_of_an_ordinary_order_gives_its_lines_back_to_the_stock(shop: Shop) -> None:
    product, user = await shop.make_product(stock=5), new_user_id()
    order = await order_of(shop, UUID((await placed(shop, user, line(product, 3)))["id"]))
    async with shop.database.transaction() as session:
        await add_wanted(session, order)
    await pay(shop, order)

    await refund(shop, order.id, {"restock": True})

    async with shop.database.transaction() as session:
        await session.refresh(product := await session.merge(product))
    assert product.stock == 5


async def test_a_paid_order_never_expires(shop: Shop) -> None:
    sale = await shop.open_sale(units=1)
    order = await _paid(shop, sale)

    await make_due(shop, [order.id])

    await balanced(shop, sale, live=1)
    assert (await order_of(shop, order.id)).status == OrderStatus.PAID


async def _stock(shop: Shop, sale: Sale) -> int:
    client = await shop.client()
    page = await client.get("/v1/admin/products", headers=shop.admin_headers(), params={"limit": 100})
    (found,) = [each["stock"] for each in page.json()["data"] if each["id"] == sale.product_id]
    return int(found)
