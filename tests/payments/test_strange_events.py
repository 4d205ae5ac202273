"""What the provider tells and nobody can use: it is noted and counted, and everybody else's money goes on."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from sqlalchemy import select, text

from shop import metrics
from shop.orders.models import Order, OrderStatus
from shop.payments import repository
from shop.payments.gateway import HttpGateway
from shop.payments.models import ProviderEvent
from shop.payments.provider import reconcile
from tests.harness import Shop
from tests.payments.orders import bought, event_of, intent_of, order_of, payment_of, tell
from tests.payments.raw import EVENT, INTENT, raw_provider, says, says_bytes

STRANGE: list[dict[str, Any]] = [
    {"data": {**INTENT, "status": "perhaps"}},
    {"data": {**INTENT, "currency": "eur"}},
    {"data": {**INTENT, "refunded_minor": -1}},
    {"data": {**INTENT, "captured_minor": 10**30}},
    {"data": {**INTENT, "order_id": 7}},
    {"data": {}},
    {"type": ""},
]


@asynccontextmanager
async def listing(shop: Shop, *pages: object, **settings: Any) -> AsyncIterator[HttpGateway]:
    """A gateway to a provider whose list of events has these pages; a breaker opens at the first failure."""
    replies = [says_bytes(page) if isinstance(page, bytes) else says({"data": page}) for page in (*pages, [])]
    async with raw_provider(*replies) as provider:
        changes = {"payment_provider_url": provider.url, "payment_breaker_failures": 1, **settings}
        gateway = HttpGateway(shop.settings.model_copy(update=changes))
        try:
            yield gateway
        finally:
            await gateway.close()


async def _cursor(shop: Shop) -> int:
    async with shop.database.transaction() as session:
        return await repository.cursor(session)


async def _noted(shop: Shop, event_ids: Sequence[str]) -> dict[str, str]:
    async with shop.database.transaction() as session:
        query = select(ProviderEvent.id, ProviderEvent.outcome).where(ProviderEvent.id.in_(event_ids))
        return {event_id: outcome for event_id, outcome in await session.execute(query)}  # noqa: C416 - rows are no pairs


def _paid(order: Order, seq: int) -> dict[str, Any]:
    intent = msgspec.to_builtins(intent_of(order, captured=True))
    return {**EVENT, "id": f"evt_of_{order.id.hex}", "seq": seq, "type": "payment.captured", "data": intent}


def _counted(outcome: str) -> float:
    return float(metrics.PROVIDER_EVENTS.labels(outcome)._value.get())


async def test_an_event_that_nobody_can_read_is_noted_and_counted_and_those_behind_it_are_taken(shop: Shop) -> None:
    (order,) = await bought(shop, await shop.open_sale(units=1), 1)
    start, counted = await _cursor(shop), _counted("unreadable")
    page = [
        {**EVENT, "id": f"evt_strange_{number}", "seq": start + number, **changes}
        for number, changes in enumerate(STRANGE, start=1)
    ]
    last = start + len(page) + 1

    async with listing(shop, [*page, _paid(order, last)]) as gateway:
        assert await reconcile(shop.database, gateway, shop.settings) == 1

    assert (await order_of(shop, order.id)).status == OrderStatus.PAID
    assert await _cursor(shop) == last
    assert set((await _noted(shop, [each["id"] for each in page])).values()) == {"unreadable"}
    assert _counted("unreadable") == counted + len(STRANGE)


async def test_an_event_that_was_passed_over_is_taken_when_it_comes_again_and_can_be_read(shop: Shop) -> None:
    (order,) = await bought(shop, await shop.open_sale(units=1), 1)
    event = _paid(order, await _cursor(shop) + 1)
    async with listing(shop, [{**event, "data": {**event["data"], "currency": "eur"}}]) as gateway:
        await reconcile(shop.database, gateway, shop.settings)
    assert (await order_of(shop, order.id)).status == OrderStatus.RESERVED

    assert await tell(shop, event_of(intent_of(order, captured=True), event_id=event["id"])) == "applied"

    assert (await order_of(shop, order.id)).status == OrderStatus.PAID


async def test_an_event_that_raises_what_nobody_foresaw_is_noted_and_the_others_are_taken(shop: Shop) -> None:
    bad, good = await bought(shop, await shop.open_sale(units=2), 2)
    start, counted = await _cursor(shop), _counted("failed")
    broken = (
        "CREATE FUNCTION break_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'never foreseen'; END $$",
        "CREATE TRIGGER broken BEFORE UPDATE ON payments FOR EACH ROW"
        f" WHEN (NEW.order_id = '{bad.id}') EXECUTE FUNCTION break_it()",
    )
    async with shop.database.transaction() as session:
        for statement in broken:
            await session.execute(text(statement))
    try:
        async with listing(shop, [_paid(bad, start + 1), _paid(good, start + 2)]) as gateway:
            assert await reconcile(shop.database, gateway, shop.settings) == 1
    finally:
        async with shop.database.transaction() as session:
            await session.execute(text("DROP FUNCTION break_it CASCADE"))

    assert (await order_of(shop, good.id)).status == OrderStatus.PAID
    assert await _noted(shop, [f"evt_of_{bad.id.hex}"]) == {f"evt_of_{bad.id.hex}": "failed"}
    assert (_counted("failed"), await _cursor(shop)) == (counted + 1, start + 2)
    again = event_of(intent_of(bad, captured=True), event_id=f"evt_of_{bad.id.hex}")
    assert await tell(shop, again) == "applied", "its webhook comes again"


async def test_pages_that_lead_nowhere_end_the_run_and_leave_the_place(shop: Shop) -> None:
    """No event says where it stands; one says it twice; there is more, and nothing comes."""
    (order,) = await bought(shop, await shop.open_sale(units=1), 1)
    start = await _cursor(shop)
    twice = _paid(order, start + 1)
    pages = [[{"id": "evt_nowhere"}, 7, None], [twice, {**twice, "seq": start + 2}], b'{"data": [], "has_more": true}']

    for page in pages:
        async with listing(shop, page) as gateway:
            await reconcile(shop.database, gateway, shop.settings)

    assert (await order_of(shop, order.id)).status == OrderStatus.PAID
    assert await _cursor(shop) == start + 2


async def test_an_intent_that_another_order_has_is_a_mismatch_and_rings(shop: Shop) -> None:
    has, wants = await bought(shop, await shop.open_sale(units=2), 2)
    await tell(shop, event_of(intent_of(has), "payment.created"))
    alarms = metrics.PAYMENT_MISMATCHES.labels("mismatch")._value.get()

    told = await tell(shop, event_of(intent_of(wants, captured=True, intent_id=f"pi_{has.id.hex}")))

    assert told == "mismatch"
    assert (await payment_of(shop, wants.id)).intent_id is None
    assert (await order_of(shop, wants.id)).status == OrderStatus.RESERVED
    assert metrics.PAYMENT_MISMATCHES.labels("mismatch")._value.get() == alarms + 1


@pytest.mark.parametrize("status", ["cancelled", "failed", "expired"])
async def test_every_end_of_an_intent_without_money_ends_its_payment(shop: Shop, status: str) -> None:
    (order,) = await bought(shop, await shop.open_sale(units=1), 1)
    over = msgspec.structs.replace(intent_of(order), status=status)

    assert await tell(shop, event_of(over, f"payment.{status}")) == "applied"

    assert (await payment_of(shop, order.id)).status == "cancelled"
