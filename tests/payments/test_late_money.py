"""Money that comes too late buys a replacement order or goes back; it never stays silently (I11)."""

from uuid import UUID

import pytest
from sqlalchemy import select

from shop.orders.expiry import expire_due
from shop.orders.models import Order, OrderStatus
from shop.payments.models import Refund
from shop.payments.repository import add_wanted, find_refund
from shop.payments.settling import settle
from tests.harness import Shop, new_user_id, wait_until
from tests.orders.catalogue import line, placed
from tests.payments.orders import balanced, bought, make_due, moves, one_bought, order_of, pay, payment_of


async def _expired(shop: Shop, order: Order) -> None:
    """Let this order expire, with a payment that is under way."""
    async with shop.database.transaction() as session:
        await add_wanted(session, order)
    await make_due(shop, [order.id])
    await expire_due(shop.database, shop.redis, shop.settings)
    assert (await order_of(shop, order.id)).status == OrderStatus.EXPIRED


async def _replacement(shop: Shop, order: Order) -> Order:
    """The paid order that replaced this one."""

    async def replaced() -> Order | None:
        async with shop.database.transaction() as session:
            query = select(Order).where(Order.replaces == order.id, Order.status == OrderStatus.PAID)
            return (await session.scalars(query)).one_or_none()

    found: Order = await wait_until(replaced, reason="the order is replaced")
    return found


async def _refund(shop: Shop, payment_id: UUID) -> Refund:
    async def asked() -> Refund | None:
        async with shop.database.transaction() as session:
            return await find_refund(session, payment_id)

    found: Refund = await wait_until(asked, reason="the money goes back")
    return found


async def test_late_money_buys_a_replacement_while_there_are_units(shop: Shop) -> None:
    sale, user = await shop.open_sale(units=1), new_user_id()
    order = await one_bought(shop, sale, user)
    await _expired(shop, order)

    await pay(shop, order)

    replacement = await _replacement(shop, order)
    assert (replacement.user_id, replacement.quantity, replacement.total_minor) == (user, 1, order.total_minor)
    assert (await payment_of(shop, order.id)).paid_order_id == replacement.id
    assert (await order_of(shop, order.id)).status == OrderStatus.EXPIRED, "a closed order never comes back"
    assert (await moves(shop, [order.id]))[order.id] == ["expired", "replaced"]
    await balanced(shop, sale, live=1)


async def test_the_buyer_reads_in_the_timeline_what_became_of_late_money(shop: Shop) -> None:
    sale, user = await shop.open_sale(units=1), new_user_id()
    order = await one_bought(shop, sale, user)
    await _expired(shop, order)
    await pay(shop, order)
    replacement = await _replacement(shop, order)

    client = await shop.client()
    document = (await client.get(f"/v1/orders/{order.id}", headers=shop.headers(user))).json()

    (entry,) = [entry for entry in document["timeline"] if entry["event"] == "replaced"]
    assert str(replacement.id) in entry["reason"]


async def test_late_money_goes_back_when_the_units_are_sold_to_others(shop: Shop) -> None:
    sale = await shop.open_sale(units=1)
    order = await one_bought(shop, sale)
    await _expired(shop, order)
    await shop.buys(sale)

    await pay(shop, order)

    refund = await _refund(shop, order.id)
    assert "sold_out" in refund.reason
    assert (await moves(shop, [order.id]))[order.id] == ["expired", "money_returned"]
    await balanced(shop, sale, live=1)


async def test_late_money_keeps_the_limit_of_its_buyer(shop: Shop) -> None:
    """Who has bought again in the meantime has what one buyer may have (I5)."""
    sale, user = await shop.open_sale(units=5), new_user_id()
    order = await one_bought(shop, sale, user)
    await _expired(shop, order)
    await shop.buys(sale, user)

    await pay(shop, order)

    assert "over_limit" in (await _refund(shop, order.id)).reason
    await balanced(shop, sale, live=1)


async def test_money_after_a_cancellation_goes_back(shop: Shop) -> None:
    sale, user = await shop.open_sale(units=1), new_user_id()
    order = await one_bought(shop, sale, user)
    async with shop.database.transaction() as session:
        await add_wanted(session, order)
    await (await shop.client()).post(f"/v1/orders/{order.id}/cancel", headers=shop.headers(user))

    await pay(shop, order)

    assert "cancelled" in (await _refund(shop, order.id)).reason
    assert (await order_of(shop, order.id)).status == OrderStatus.CANCELLED
    await balanced(shop, sale, live=0)


async def test_late_money_goes_back_after_the_end_of_the_sale(shop: Shop) -> None:
    sale = await shop.open_sale(units=1)
    order = await one_bought(shop, sale)
    assert (await shop.change(sale, "close")).status_code in {200, 202}
    await _expired(shop, order)

    await pay(shop, order)

    reason = (await _refund(shop, order.id)).reason
    assert "ended" in reason or "over" in reason


async def test_settling_again_and_from_two_workers_makes_one_replacement(shop: Shop) -> None:
    sale = await shop.open_sale(units=20)
    orders = await bought(shop, sale, 10)
    for order in orders:
        await _expired(shop, order)
        await pay(shop, order)

    for _ in range(3):
        await settle(shop.database, shop.redis, shop.settings)

    for order in orders:
        await _replacement(shop, order)
    await balanced(shop, sale, live=10)


@pytest.mark.parametrize("in_stock", [0, 2])
async def test_late_money_for_an_ordinary_order_takes_the_stock_or_goes_back(shop: Shop, in_stock: int) -> None:
    product, user = await shop.make_product(stock=2), new_user_id()
    order = await order_of(shop, UUID((await placed(shop, user, line(product, 2)))["id"]))
    await _expired(shop, order)
    if in_stock == 0:
        await placed(shop, new_user_id(), line(product, 1))

    await pay(shop, order)

    if in_stock:
        replacement = await _replacement(shop, order)
        assert (replacement.quantity, replacement.total_minor) == (2, order.total_minor)
    else:
        assert "stock" in (await _refund(shop, order.id)).reason
    async with shop.database.transaction() as session:
        await session.refresh(product := await session.merge(product))
    assert product.stock == (0 if in_stock else 1)
