"""Whatever the provider tells, in whatever order and however often: the order ends as the truth at the provider."""

import asyncio
from collections import Counter
from datetime import UTC, datetime
from itertools import permutations
from itertools import product as tuples
from uuid import UUID

import msgspec
import pytest
from sqlalchemy import update

from shop import metrics
from shop.orders.models import Order, OrderStatus
from shop.payments.contract import Intent
from shop.payments.models import PaymentStatus, RefundStatus
from shop.payments.repository import add_wanted, find_refund
from shop.payments.service import money_report
from shop.payments.totals.repository import money
from shop.products.models import Product
from tests.harness import Shop, new_key, new_user_id
from tests.orders.catalogue import line, placed
from tests.payments.orders import (
    balanced,
    bought,
    event_of,
    intent_of,
    moves,
    one_bought,
    order_of,
    pay,
    payment_of,
    statuses,
    tell,
)

REPEATED_MAX = 3
TOGETHER = 20
# What the intent looks like in each event. A second capture is told with an event of its own, as some providers do.
TOLD = {
    "created": {},
    "captured": {"captured": True},
    "captured_again": {"captured": True},
    "failed": {"attempts": 1},
    "refunded": {"captured": True, "refunded": True},
}


def _intent(order: Order, word: str) -> Intent:
    return intent_of(order, **TOLD[word])  # type: ignore[arg-type]


def _truth(words: tuple[str, ...]) -> OrderStatus:
    """What is true at a provider that has told these things, whatever came last."""
    if "refunded" in words:
        return OrderStatus.REFUNDED
    return OrderStatus.PAID if {"captured", "captured_again"} & set(words) else OrderStatus.RESERVED


@pytest.mark.timeout(300)
async def test_every_order_of_arrival_ends_as_the_truth_at_the_provider(shop: Shop) -> None:
    """Any up to three events, doubled ones among them and delivered twice, and any four different ones (F25)."""
    sequences = [words for length in range(1, REPEATED_MAX + 1) for words in tuples(TOLD, repeat=length)]
    sequences += permutations(TOLD, REPEATED_MAX + 1)
    sale = await shop.open_sale(units=len(sequences))
    orders = await bought(shop, sale, len(sequences))

    async def play(order: Order, words: tuple[str, ...]) -> None:
        for word in words:
            event = event_of(_intent(order, word), f"payment.{word.removesuffix('_again')}")
            assert await tell(shop, event) == "applied"
            if len(words) <= REPEATED_MAX:
                assert await tell(shop, event) == "repeated"

    for start in range(0, len(sequences), TOGETHER):
        pairs = zip(orders[start : start + TOGETHER], sequences[start : start + TOGETHER], strict=True)
        await asyncio.gather(*(play(order, words) for order, words in pairs))

    found = await statuses(shop, [order.id for order in orders])
    expected = {order.id: _truth(words) for order, words in zip(orders, sequences, strict=True)}
    assert found == expected
    await balanced(shop, sale, live=len(sequences))


async def test_two_deliveries_of_one_event_at_the_same_moment_are_ingested_once(shop: Shop) -> None:
    sale = await shop.open_sale(units=1)
    (order,) = await bought(shop, sale, 1)
    event = event_of(intent_of(order, captured=True))

    told = await asyncio.gather(*(tell(shop, event) for _ in range(10)))

    assert sorted(told) == ["applied", *["repeated"] * 9]
    assert (await moves(shop, [order.id]))[order.id] == ["paid"]


@pytest.mark.parametrize(
    "wrong",
    [{"amount_minor": 1}, {"amount_minor": 10**12}, {"captured_minor": 1}, {"currency": "USD"}, {"id": "pi_another"}],
    ids=["too-little", "too-much", "a part", "currency", "intent"],
)
async def test_money_that_was_not_asked_for_leaves_the_order_as_it_is_and_rings(
    shop: Shop, wrong: dict[str, object]
) -> None:
    sale = await shop.open_sale(units=1)
    (order,) = await bought(shop, sale, 1)
    assert await tell(shop, event_of(intent_of(order), "payment.created")) == "applied"
    alarms = metrics.PAYMENT_MISMATCHES.labels("mismatch")._value.get()

    intent = msgspec.structs.replace(intent_of(order, captured=True), **wrong)
    assert await tell(shop, event_of(intent)) == "mismatch"

    assert (await order_of(shop, order.id)).status == OrderStatus.RESERVED
    assert metrics.PAYMENT_MISMATCHES.labels("mismatch")._value.get() == alarms + 1
    assert await pay(shop, order) == "applied", "the right event is still taken"


async def test_an_event_of_an_order_that_nobody_made_is_noted_and_rings(shop: Shop) -> None:
    sale = await shop.open_sale(units=1)
    (order,) = await bought(shop, sale, 1)
    ghost = intent_of(order, captured=True, intent_id="pi_ghost")
    for order_id in ("00000001-0000-8000-8000-000000000000", "no uuid at all", ""):
        event = event_of(msgspec.structs.replace(ghost, order_id=order_id))

        assert await tell(shop, event) == "unknown_order"
        assert await tell(shop, event) == "repeated"
    assert (await order_of(shop, order.id)).status == OrderStatus.RESERVED


async def test_a_cancelled_intent_can_still_turn_out_to_be_captured(shop: Shop) -> None:
    """The buyer may have been faster than the cancel; captured money is never overlooked."""
    sale = await shop.open_sale(units=1)
    (order,) = await bought(shop, sale, 1)
    await tell(shop, event_of(intent_of(order, status="cancelled"), "payment.cancelled"))
    assert (await payment_of(shop, order.id)).status == PaymentStatus.CANCELLED

    await pay(shop, order)

    assert (await payment_of(shop, order.id)).status == PaymentStatus.CAPTURED
    assert (await order_of(shop, order.id)).status == OrderStatus.PAID


async def test_money_that_the_provider_returned_by_itself_refunds_the_order_and_keeps_its_units(shop: Shop) -> None:
    """A charge-back is no reason to sell what may be on its way to the buyer."""
    sale = await shop.open_sale(units=1)
    (order,) = await bought(shop, sale, 1)
    await pay(shop, order)

    await tell(shop, event_of(intent_of(order, captured=True, refunded=True), "payment.refunded"))

    assert (await order_of(shop, order.id)).status == OrderStatus.REFUNDED
    async with shop.database.transaction() as session:
        refund = await find_refund(session, order.id)
    assert refund is not None
    assert refund.status == RefundStatus.DONE
    await balanced(shop, sale, live=1)


async def _refunded(shop: Shop) -> Order:
    (order,) = await bought(shop, await shop.open_sale(units=1), 1)
    await pay(shop, order)
    await tell(shop, event_of(intent_of(order, captured=True, refunded=True), "payment.refunded"))
    return order


async def _refund_status(shop: Shop, order: Order) -> str | None:
    async with shop.database.transaction() as session:
        refund = await find_refund(session, order.id)
    return None if refund is None else refund.status


async def _money_is_balanced(shop: Shop) -> bool:
    async with shop.database.transaction() as session:
        return money_report(await money(session)).balanced


@pytest.mark.parametrize("left", [0, 1])
async def test_a_refund_that_the_provider_takes_back_rings_and_is_no_balance(shop: Shop, left: int) -> None:
    """All of it or a part. When the money goes back after all, it is right again."""
    order = await _refunded(shop)
    alarms = metrics.PAYMENT_MISMATCHES.labels("refund_taken_back")._value.get()
    less = msgspec.structs.replace(intent_of(order, captured=True), refunded_minor=left)

    told = await tell(shop, event_of(less, "payment.refund_failed"))

    assert told == "refund_taken_back"
    assert await _refund_status(shop, order) == "taken_back"
    assert metrics.PAYMENT_MISMATCHES.labels("refund_taken_back")._value.get() == alarms + 1
    assert not await _money_is_balanced(shop)
    assert (await order_of(shop, order.id)).status == OrderStatus.REFUNDED
    await tell(shop, event_of(intent_of(order, captured=True, refunded=True), "payment.refunded"))
    assert await _refund_status(shop, order) == "done"
    assert await _money_is_balanced(shop)


async def test_a_refund_taken_back_before_it_was_told_of_is_taken_back(shop: Shop) -> None:
    (order,) = await bought(shop, await shop.open_sale(units=1), 1)
    await pay(shop, order)
    refunded = event_of(intent_of(order, captured=True, refunded=True), "payment.refunded")
    await tell(shop, event_of(intent_of(order, captured=True), "payment.refund_failed"))

    await tell(shop, refunded)

    assert await _refund_status(shop, order) == "taken_back"
    await tell(shop, event_of(intent_of(order, captured=True, refunded=True), "payment.refunded"))


async def test_a_captured_event_that_is_younger_than_the_refund_takes_it_back(shop: Shop) -> None:
    """Whatever the provider calls it: late is only what is older."""
    order = await _refunded(shop)
    event = event_of(intent_of(order, captured=True))

    assert await tell(shop, event) == "applied"
    younger = msgspec.structs.replace(event, id="evt_younger", seq=event.seq + 1, created_at=datetime.now(UTC))
    assert await tell(shop, younger) == "refund_taken_back"
    again = event_of(intent_of(order, captured=True, refunded=True), "payment.refunded")
    await tell(shop, msgspec.structs.replace(again, seq=younger.seq + 1))
    assert await _money_is_balanced(shop)


async def test_captured_money_that_the_provider_denies_rings(shop: Shop) -> None:
    (order,) = await bought(shop, await shop.open_sale(units=1), 1)
    await pay(shop, order)

    assert await tell(shop, event_of(intent_of(order), "payment.updated")) == "mismatch"

    assert (await order_of(shop, order.id)).status == OrderStatus.PAID


async def test_the_money_of_each_currency_is_reported_by_itself(shop: Shop) -> None:
    """A yen is no cent: sums of two currencies are never added."""
    before = await _by_currency(shop)
    product = await shop.make_product(stock=1)
    async with shop.database.transaction() as session:
        await session.execute(update(Product).where(Product.id == product.id).values(currency="CLF", price_minor=7))
    user = new_user_id()
    dear = await order_of(shop, UUID((await placed(shop, user, line(product)))["id"]))
    (cheap,) = await bought(shop, await shop.open_sale(units=1), 1)
    async with shop.database.transaction() as session:
        await add_wanted(session, dear)
    for order in (dear, cheap):
        await pay(shop, order)

    after = await _by_currency(shop)

    assert after["CLF"] - before["CLF"] == 7
    assert after["EUR"] - before["EUR"] == cheap.total_minor


async def _by_currency(shop: Shop) -> Counter[str]:
    async with shop.database.transaction() as session:
        return Counter({each.currency: each.captured for each in await money(session)})


async def test_a_repeat_says_what_has_become_of_its_order(shop: Shop) -> None:
    """A key finds its order, however it has ended; and what is not recorded yet is reserved."""
    sale, user, key = await shop.open_sale(units=1), new_user_id(), new_key()
    bought_first = await shop.buy(sale, user, key=key)
    seen = [(await shop.buy(sale, user, key=key)).json()["status"]]
    await shop.drained(sale)
    order = await order_of(shop, UUID(bought_first.json()["id"]))
    async with shop.database.transaction() as session:
        await add_wanted(session, order)
    await pay(shop, order)
    seen.append((await shop.buy(sale, user, key=key)).json()["status"])
    await tell(shop, event_of(intent_of(order, captured=True, refunded=True), "payment.refunded"))

    seen.append((await shop.buy(sale, user, key=key)).json()["status"])

    assert seen == ["reserved", "paid", "refunded"]


async def test_a_buyer_whose_order_is_paid_buys_the_next_unit_with_a_key(shop: Shop) -> None:
    """Without one, a repeat is the paid order for ever, and says that it is paid."""
    sale, user = await shop.open_sale(units=2, units_per_user=2), new_user_id()
    order = await one_bought(shop, sale, user)
    async with shop.database.transaction() as session:
        await add_wanted(session, order)
    await pay(shop, order)

    repeat, more = await shop.buy(sale, user), await shop.buy(sale, user, key=new_key())

    assert (repeat.status_code, repeat.json()["id"], repeat.json()["status"]) == (200, str(order.id), "paid")
    client = await shop.client()
    told = await client.get(repeat.headers["Location"], headers=shop.headers(user))
    assert told.json()["status"] == "paid"
    assert more.status_code == 202
    assert more.json()["id"] != str(order.id)
