"""Money that comes too late buys a replacement order or goes back; it never stays silently (I11)."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from shop.database import Database
from shop.ledger.client import Answer, RedisClock
from shop.orders.expiry import expire_due
from shop.orders.models import Order, OrderStatus
from shop.payments import matching
from shop.payments.matching import match_payments
from shop.payments.models import Refund
from shop.payments.repository import add_wanted, find_refund
from shop.redis import NotSent, OutcomeUnknown
from shop.settings import Settings
from tests.harness import Shop, new_user_id, wait_until
from tests.orders.catalogue import line, placed
from tests.payments.orders import (
    balanced,
    bought,
    event_of,
    intent_of,
    make_due,
    moves,
    one_bought,
    order_of,
    pay,
    payment_of,
    tell,
)


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


async def test_matching_again_and_from_two_workers_makes_one_replacement(shop: Shop) -> None:
    sale = await shop.open_sale(units=20)
    orders = await bought(shop, sale, 10)
    for order in orders:
        await _expired(shop, order)
        await pay(shop, order)

    for _ in range(3):
        await match_payments(shop.database, shop.redis, shop.settings)

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


async def test_a_buyers_own_key_never_names_a_replacement(shop: Shop) -> None:
    """Whatever a buyer calls their orders, their late money is matched."""
    product, user = await shop.make_product(stock=3), new_user_id()
    order = await order_of(shop, UUID((await placed(shop, user, line(product)))["id"]))
    await _expired(shop, order)
    await placed(shop, user, line(product), key=f"late:{order.id}")

    await pay(shop, order)

    assert (await _replacement(shop, order)).quantity == 1


async def test_a_payment_that_cannot_be_matched_does_not_stand_before_the_others(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even one that fails in a way that nobody foresaw."""
    sale = await shop.open_sale(units=2)
    broken, order = await bought(shop, sale, 2)
    match_payment = matching.match_payment

    async def breaks_for_one(database: Database, client: Any, payment_id: UUID, settings: Settings) -> bool:
        if payment_id == broken.id:
            raise RuntimeError("nobody has thought of this")
        return await match_payment(database, client, payment_id, settings)

    monkeypatch.setattr(matching, "match_payment", breaks_for_one)
    for each in (broken, order):
        await _expired(shop, each)
        await pay(shop, each)
    await _replacement(shop, order)
    monkeypatch.undo()

    await _replacement(shop, broken)
    await balanced(shop, sale, live=2)


async def test_late_money_waits_until_the_expired_order_has_given_its_units_back(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the order's own unit would be missing, and the money would go back."""
    sale = await shop.open_sale(units=1)
    order = await one_bought(shop, sale)

    async def fails(*_: object) -> int:
        return 0

    monkeypatch.setattr("shop.orders.expiry.release", fails)
    monkeypatch.setattr("shop.worker.jobs.sweep", fails)
    monkeypatch.setattr(matching, "release", fails)
    await _expired(shop, order)
    await pay(shop, order)
    for _ in range(3):
        assert await match_payments(shop.database, shop.redis, shop.settings) == 0
    assert (await moves(shop, [order.id]))[order.id] == ["expired"]
    monkeypatch.undo()

    await _replacement(shop, order)
    await balanced(shop, sale, live=1)


@pytest.mark.parametrize(
    "answer", ["LATE", "NOT_LOADED", "STALE_EPOCH", "BACKLOG", "not sent", "outcome unknown", "RESERVED"]
)
async def test_late_money_is_not_returned_for_an_answer_that_says_nothing_about_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """It is asked again, until there is an answer about these units."""
    sale = await shop.open_sale(units=1)
    order = await one_bought(shop, sale)
    asked = 0

    async def reserve(*_: object, **__: object) -> list[Answer]:
        nonlocal asked
        asked += 1
        if answer == "not sent":
            raise NotSent(answer)
        if answer == "outcome unknown":
            raise OutcomeUnknown(answer)
        return [Answer(answer, ())]

    with monkeypatch.context() as patched:
        patched.setattr("shop.payments.matching.ledger.reserve", reserve)
        await _expired(shop, order)
        await pay(shop, order)
        await match_payments(shop.database, shop.redis, shop.settings)
        await match_payments(shop.database, shop.redis, shop.settings)
        assert (await moves(shop, [order.id]))[order.id] == ["expired"]
    assert asked >= 2

    await _replacement(shop, order)
    await balanced(shop, sale, live=1)


async def test_late_money_is_matched_by_a_worker_whose_clock_is_late(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger's first answer tells it the time."""
    sale = await shop.open_sale(units=1)
    order = await one_bought(shop, sale)

    late_ms = int(shop.settings.redis_timeout_seconds * 1000) + 2_000

    class LateClock(RedisClock):
        @property
        def now_ms(self) -> int:
            return super().now_ms - (late_ms if self._offset_ms is None else 0)

    monkeypatch.setattr(matching, "RedisClock", LateClock)
    await _expired(shop, order)
    await pay(shop, order)

    await _replacement(shop, order)


async def test_what_becomes_of_late_money_stands_in_the_timeline_by_its_time(shop: Shop) -> None:
    """After the units went back, and announced like every change."""
    sale, user = await shop.open_sale(units=1), new_user_id()
    order = await one_bought(shop, sale, user)
    await _expired(shop, order)
    client = await shop.client()

    async def events() -> list[str]:
        document = (await client.get(f"/v1/orders/{order.id}", headers=shop.headers(user))).json()
        return [entry["event"] for entry in document["timeline"]]

    async def released() -> bool:
        return "released" in await events()

    await wait_until(released, reason="its units are back")
    await pay(shop, order)
    await _replacement(shop, order)

    assert await events() == ["reserved", "expired", "released", "replaced"]


async def test_money_that_the_provider_returns_by_itself_is_told_once(shop: Shop) -> None:
    """The first that is heard of it may be that it went back already."""
    sale, user = await shop.open_sale(units=1), new_user_id()
    order = await one_bought(shop, sale, user)
    async with shop.database.transaction() as session:
        await add_wanted(session, order)
    await (await shop.client()).post(f"/v1/orders/{order.id}/cancel", headers=shop.headers(user))

    for kind in ("payment.refunded", "payment.captured", "payment.refunded"):
        await tell(shop, event_of(intent_of(order, captured=True, refunded=True), kind))

    assert (await moves(shop, [order.id]))[order.id] == ["cancelled", "money_returned"]
    await balanced(shop, sale, live=0)
