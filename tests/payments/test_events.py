"""Whatever the provider tells, in whatever order and however often: the order ends as the truth at the provider."""

import asyncio
from itertools import product

import msgspec
import pytest

from shop import metrics
from shop.orders.models import Order, OrderStatus
from shop.payments.gateway import Intent
from shop.payments.models import PaymentStatus, RefundStatus
from shop.payments.repository import find_refund
from tests.harness import Shop
from tests.payments.orders import (
    balanced,
    bought,
    event_of,
    intent_of,
    moves,
    order_of,
    pay,
    payment_of,
    statuses,
    tell,
)

LENGTH_MAX = 4
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
    """All sequences of up to four events, doubled ones among them; shorter ones are delivered twice (F25)."""
    sequences = [words for length in range(1, LENGTH_MAX + 1) for words in product(TOLD, repeat=length)]
    sale = await shop.open_sale(units=len(sequences))
    orders = await bought(shop, sale, len(sequences))

    async def play(order: Order, words: tuple[str, ...]) -> None:
        for word in words:
            event = event_of(_intent(order, word), f"payment.{word.removesuffix('_again')}")
            assert await tell(shop, event) == "applied"
            if len(words) < LENGTH_MAX:
                assert await tell(shop, event) == "repeated"

    for start in range(0, len(sequences), TOGETHER):
        pairs = zip(orders[start : start + TOGETHER], sequences[start : start + TOGETHER], strict=True)
        await asyncio.gather(*(play(order, words) for order, words in pairs))

    found = await statuses(shop, [order.id for order in orders])
    expected = {order.id: _truth(words) for order, words in zip(orders, sequences, strict=True)}
    assert found == expected
    await balanced(shop, sale, live=len(sequences))


async def test_two_deliveries_of_one_event_at_the_same_moment_are_taken_once(shop: Shop) -> None:
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
