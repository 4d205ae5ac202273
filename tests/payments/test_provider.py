"""What the worker asks of the provider by itself: lost webhooks, needless intents, refunds that must come through."""

import asyncio
from uuid import UUID

from shop.orders.models import Order, OrderStatus
from shop.payments.models import PaymentStatus, RefundStatus
from shop.payments.repository import find_refund
from tests.harness import new_user_id, wait_until
from tests.payments.conftest import Paying
from tests.payments.orders import balanced, bought, make_due, one_bought, order_of, payment_of, statuses

RIGHT_SECONDS = 60.0
ORDERS = 60


async def _started(paying: Paying, order: Order) -> str:
    async def started() -> str | None:
        answer = await paying.start(order.id, order.user_id)
        assert answer.status_code in {201, 503}, answer.text  # A crowd may have to come back.
        pay_url: str | None = answer.json().get("pay_url")
        return pay_url

    found: str = await wait_until(started, reason="the payment is started")
    return found


async def test_every_order_is_right_within_a_minute_although_a_fifth_of_the_webhooks_is_lost(paying: Paying) -> None:
    """Some are also doubled, late and out of order: the provider's own list of events tells what is true."""
    sale = await paying.shop.open_sale(units=ORDERS)
    orders = await bought(paying.shop, sale, ORDERS)
    await paying.behave(lose_share=0.2, duplicate_share=0.2, reorder_share=0.2, delay_seconds_max=0.3, seed=7)

    async def buyer(number: int, order: Order) -> None:
        pay_url = await _started(paying, order)
        if number % 3 == 0:
            await paying.attempt(pay_url, "decline")
        if number % 4:
            await paying.attempt(pay_url)

    await asyncio.gather(*(buyer(number, order) for number, order in enumerate(orders)))

    async def right() -> bool:
        found = await statuses(paying.shop, [order.id for order in orders])
        return all((found[order.id] == OrderStatus.PAID) == bool(number % 4) for number, order in enumerate(orders))

    await wait_until(right, within=RIGHT_SECONDS, reason="every order is as its payment")
    await balanced(paying.shop, sale, live=ORDERS)


async def test_no_webhook_at_all_only_makes_it_slower(paying: Paying) -> None:
    order = await one_bought(paying.shop, await paying.shop.open_sale(units=1))
    await paying.behave(lose_share=1.0)
    await paying.attempt(await _started(paying, order))

    async def paid() -> bool:
        return (await order_of(paying.shop, order.id)).status == OrderStatus.PAID

    await wait_until(paid, within=RIGHT_SECONDS, reason="the order is paid")


async def _is(paying: Paying, order_id: UUID, status: PaymentStatus) -> bool:
    return (await payment_of(paying.shop, order_id)).status == status


async def test_the_intent_of_a_cancelled_and_of_an_expired_order_can_no_longer_be_paid(paying: Paying) -> None:
    sale = await paying.shop.open_sale(units=2)
    cancelled, expired = [await one_bought(paying.shop, sale) for _ in range(2)]
    pay_urls = [await _started(paying, order) for order in (cancelled, expired)]
    client = await paying.shop.client()

    await client.post(f"/v1/orders/{cancelled.id}/cancel", headers=paying.shop.headers(cancelled.user_id))
    await make_due(paying.shop, [expired.id])

    for order, pay_url in zip((cancelled, expired), pay_urls, strict=True):

        async def is_cancelled(order_id: UUID = order.id) -> bool:
            return await _is(paying, order_id, PaymentStatus.CANCELLED)

        await wait_until(is_cancelled, reason="the intent is cancelled")
        refused = await paying.attempt(pay_url)
        assert (refused.status_code, refused.json()["code"]) == (409, "intent_cancelled")
    await balanced(paying.shop, sale, live=0)


async def test_who_pays_faster_than_the_cancel_comes_through_gets_the_money_back(paying: Paying) -> None:
    sale, user = await paying.shop.open_sale(units=1), new_user_id()
    order = await one_bought(paying.shop, sale, user)
    pay_url = await _started(paying, order)
    await paying.webhooks(on=False)
    await paying.behave(refuse_share=1.0)  # Nobody is told, and the cancel cannot come through.
    assert (await paying.attempt(pay_url)).status_code == 200
    client = await paying.shop.client()

    answer = await client.post(f"/v1/orders/{order.id}/cancel", headers=paying.shop.headers(user))

    assert answer.json()["status"] == "cancelled"
    await paying.behave()

    async def refunded() -> bool:
        async with paying.shop.database.transaction() as session:
            refund = await find_refund(session, order.id)
        return refund is not None and refund.status == RefundStatus.DONE

    await wait_until(refunded, within=RIGHT_SECONDS, reason="the money is back")
    intent = await paying.intent(order.id)
    assert intent["refunded_minor"] == intent["captured_minor"] == order.total_minor
    await balanced(paying.shop, sale, live=0)


async def test_a_refund_comes_through_although_the_provider_fails_for_a_while(paying: Paying) -> None:
    """Replies are cut and requests refused: the money goes back once all the same."""
    sale = await paying.shop.open_sale(units=1)
    order = await one_bought(paying.shop, sale)
    await paying.attempt(await _started(paying, order))

    async def paid() -> bool:
        return (await order_of(paying.shop, order.id)).status == OrderStatus.PAID

    await wait_until(paid, within=RIGHT_SECONDS, reason="the order is paid")
    await paying.behave(drop_reply_share=0.7, refuse_share=0.3, seed=3)
    client = await paying.shop.client()
    headers = {**paying.shop.admin_headers(), "Idempotency-Key": f"refund-{order.id}"}

    answer = await client.post(f"/v1/admin/orders/{order.id}/refund", headers=headers, json={})

    assert answer.status_code == 202, answer.text

    async def done() -> bool:
        async with paying.shop.database.transaction() as session:
            refund = await find_refund(session, order.id)
        return refund is not None and refund.status == RefundStatus.DONE

    await wait_until(done, within=RIGHT_SECONDS, reason="the refund is done")
    await paying.behave()
    intent = await paying.intent(order.id)
    assert intent["refunded_minor"] == order.total_minor
    assert len(intent["refunds"]) == 1
    await balanced(paying.shop, sale, live=0)


async def test_an_answer_to_a_refund_that_was_lost_is_asked_for_again_and_not_the_refund(paying: Paying) -> None:
    """The money went back and the shop was never told: it asks with the same key, and is told now (I11)."""
    sale = await paying.shop.open_sale(units=1)
    order = await one_bought(paying.shop, sale)
    await paying.attempt(await _started(paying, order))

    async def paid() -> bool:
        return (await order_of(paying.shop, order.id)).status == OrderStatus.PAID

    await wait_until(paid, within=RIGHT_SECONDS, reason="the order is paid")
    await paying.webhooks(on=False)  # one would tell of the refund
    await paying.behave(drop_reply_share=1.0)
    client, headers = await paying.shop.client(), paying.shop.admin_headers(key=f"refund-{order.id}")
    assert (await client.post(f"/v1/admin/orders/{order.id}/refund", headers=headers, json={})).status_code == 202

    async def asked_twice() -> bool:
        async with paying.shop.database.transaction() as session:
            refund = await find_refund(session, order.id)
        return refund is not None and refund.tries >= 2

    await wait_until(asked_twice, within=RIGHT_SECONDS, reason="the answer was lost, and the shop has asked again")
    await paying.behave()

    async def done() -> bool:
        async with paying.shop.database.transaction() as session:
            refund = await find_refund(session, order.id)
        return refund is not None and refund.status == RefundStatus.DONE

    await wait_until(done, within=RIGHT_SECONDS, reason="the refund is done")
    assert len((await paying.intent(order.id))["refunds"]) == 1
    await balanced(paying.shop, sale, live=0)


async def test_an_answer_to_the_start_that_was_lost_is_made_good(paying: Paying) -> None:
    """The intent was made, the shop was never told: it asks again with the same key and finds it."""
    order = await one_bought(paying.shop, await paying.shop.open_sale(units=1))
    await paying.webhooks(on=False)
    await paying.behave(drop_reply_share=1.0)
    assert (await paying.start(order.id, order.user_id)).status_code == 503
    await paying.behave()

    async def is_open() -> bool:
        return await _is(paying, order.id, PaymentStatus.OPEN)

    await wait_until(is_open, within=RIGHT_SECONDS, reason="the intent is known")
    intent_id = (await payment_of(paying.shop, order.id)).intent_id
    assert intent_id == (await paying.intent(order.id))["id"]


async def test_the_money_report_adds_up_and_is_for_admins(paying: Paying) -> None:
    client = await paying.shop.client()

    report = await client.get("/v1/admin/reports/money", headers=paying.shop.admin_headers())
    refused = await client.get("/v1/admin/reports/money", headers=paying.shop.headers())

    document = report.json()
    assert document["balanced"] is True
    for money in document["data"]:
        assert money["captured_minor"] == sum(
            money[f"{name}_minor"] for name in ("paid", "refunded", "refund_pending", "refund_taken_back", "unsettled")
        )
    assert refused.status_code == 403
