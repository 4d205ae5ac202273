"""Paying over HTTP: from the order to the payment page of the provider."""

from typing import Any
from uuid import UUID

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import func, select, update

from shop import metrics
from shop.errors import ProviderUnavailable
from shop.orders.models import Order, OrderStatus
from shop.payments import service
from shop.payments.contract import Intent
from shop.payments.gateway import HttpGateway
from shop.payments.models import Payment
from tests.harness import new_user_id, wait_until
from tests.orders.catalogue import line, placed
from tests.orders.waiting.streams import following
from tests.payments.conftest import Paying
from tests.payments.orders import event_of, intent_of, make_due, one_bought, order_of, payment_of, tell


async def _paid(paying: Paying, order_id: UUID) -> Order:
    async def paid() -> Order | None:
        order = await order_of(paying.shop, order_id)
        return order if order.status == OrderStatus.PAID else None

    order: Order = await wait_until(paid, reason="the order is paid")
    return order


async def _bought(paying: Paying, **wishes: Any) -> Order:
    return await one_bought(paying.shop, await paying.shop.open_sale(units=1, **wishes))


async def test_an_order_is_paid_at_the_provider(paying: Paying) -> None:
    order = await _bought(paying)

    answer = await paying.start(order.id, order.user_id)

    payment = answer.json()
    assert answer.status_code == 201, answer.text
    assert (payment["status"], payment["amount_minor"], payment["currency"]) == ("open", order.total_minor, "EUR")
    assert payment["pay_url"].startswith(paying.provider_url)
    assert (await paying.attempt(payment["pay_url"])).status_code == 200
    await _paid(paying, order.id)
    client = await paying.shop.client()
    document = (await client.get(f"/v1/orders/{order.id}", headers=paying.shop.headers(order.user_id))).json()
    assert [entry["event"] for entry in document["timeline"]] == ["reserved", "paid"]
    assert document["timeline"][-1]["by"] == "provider"


async def test_an_ordinary_order_is_paid_the_same_way(paying: Paying) -> None:
    product, user = await paying.shop.make_product(), new_user_id()
    order_id = UUID((await placed(paying.shop, user, line(product, 2)))["id"])

    payment = (await paying.start(order_id, user)).json()
    await paying.attempt(payment["pay_url"])

    await _paid(paying, order_id)


async def test_starting_again_gives_the_same_payment_and_never_extends_the_hold(paying: Paying) -> None:
    """However often a buyer starts, the moment of expiry stays (F18)."""
    order = await _bought(paying)

    answers = [await paying.start(order.id, order.user_id, key=f"try-{number}") for number in range(3)]

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    assert (await order_of(paying.shop, order.id)).expires_at == order.expires_at


async def test_a_declined_payment_may_be_tried_again(paying: Paying) -> None:
    order = await _bought(paying)
    pay_url = (await paying.start(order.id, order.user_id)).json()["pay_url"]

    declined = await paying.attempt(pay_url, "decline")

    assert (declined.status_code, declined.json()["code"]) == (402, "payment_declined")
    assert (await order_of(paying.shop, order.id)).status == OrderStatus.RESERVED
    assert (await paying.attempt(pay_url)).status_code == 200
    await _paid(paying, order.id)


async def test_there_is_nothing_to_pay_for_a_free_order(paying: Paying) -> None:
    product, user = await paying.shop.make_product(price_minor=0), new_user_id()
    order_id = UUID((await placed(paying.shop, user, line(product)))["id"])

    answer = await paying.start(order_id, user)

    assert (answer.status_code, answer.json()["status"]) == (201, "captured")
    await _paid(paying, order_id)


async def test_a_payment_needs_a_key(paying: Paying) -> None:
    order = await _bought(paying)

    answer = await paying.start(order.id, order.user_id, key=None)

    assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key_missing")


async def test_nobody_pays_for_what_is_not_theirs_or_not_there(paying: Paying) -> None:
    order = await _bought(paying)

    foreign = await paying.start(order.id, new_user_id())
    unknown = await paying.start("00000001-0000-8000-8000-000000000000", order.user_id)
    senseless = await paying.start("no-uuid", order.user_id)

    assert foreign.status_code == unknown.status_code == 404
    assert foreign.json()["code"] == unknown.json()["code"] == "not_found"
    assert senseless.status_code == 422


async def test_a_paid_a_cancelled_and_an_expired_order_take_no_payment(paying: Paying) -> None:
    paid, cancelled, expired = [await _bought(paying) for _ in range(3)]
    await paying.attempt((await paying.start(paid.id, paid.user_id)).json()["pay_url"])
    await _paid(paying, paid.id)
    client = await paying.shop.client()
    await client.post(f"/v1/orders/{cancelled.id}/cancel", headers=paying.shop.headers(cancelled.user_id))
    await make_due(paying.shop, [expired.id])

    answers = [await paying.start(order.id, order.user_id) for order in (paid, cancelled, expired)]

    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [
        (409, "order_paid"),
        (409, "order_closed"),
        (409, "order_closed"),
    ]
    assert answers[1].json()["order_status"] == "cancelled"
    assert answers[2].json()["order_status"] == "expired"


async def test_an_order_that_is_not_recorded_yet_is_refused_after_a_while_and_nothing_is_asked_for(
    paying: Paying,
) -> None:
    """The 202 is a promise, its row may be on the way: the buyer is told to come back."""
    sale, user = await paying.shop.open_sale(units=1), new_user_id()
    async with paying.shop.database.transaction() as session:
        from shop.sales import repository as sales

        await sales.lock(session, sale.id)  # the persister waits for it
        order_id = (await paying.shop.buys(sale, user)).json()["id"]
        answer = await paying.start(order_id, user)

    assert (answer.status_code, answer.json()["code"]) == (503, "not_recorded_yet")
    await paying.shop.drained(sale)
    assert (await paying.start(order_id, user)).status_code == 201


async def test_a_provider_that_is_away_is_a_clear_refusal_and_the_next_try_works(paying: Paying) -> None:
    order = await _bought(paying)
    await paying.behave(refuse_share=1.0)

    answer = await paying.start(order.id, order.user_id)

    assert (answer.status_code, answer.json()["code"]) == (503, "provider_unavailable")
    assert "Retry-After" in answer.headers
    await paying.behave()

    async def started() -> bool:
        return (await paying.start(order.id, order.user_id)).status_code == 201

    await wait_until(started, reason="the provider is asked again")


async def test_a_provider_that_refuses_the_shop_itself_is_no_fault_of_the_buyer(paying: Paying) -> None:
    """A wrong key at the provider is a 503 and an alarm, never a 500 and never a final no."""
    order = await _bought(paying)
    gateway = HttpGateway(paying.shop.settings.model_copy(update={"payment_api_key": SecretStr("wrong")}))
    refusals = metrics.PROVIDER_REFUSALS.labels("create")._value.get()

    with pytest.raises(ProviderUnavailable):
        await service.start(
            paying.shop.database,
            paying.shop.redis,
            gateway,
            order_id=order.id,
            buyer_id=order.user_id,
            settings=paying.shop.settings,
        )

    await gateway.close()
    assert metrics.PROVIDER_REFUSALS.labels("create")._value.get() == refusals + 1
    assert (await paying.start(order.id, order.user_id)).status_code == 201


async def test_only_one_payment_row_is_made_however_many_start_at_once(paying: Paying) -> None:
    import asyncio

    order = await _bought(paying)

    answers = await asyncio.gather(*(paying.start(order.id, order.user_id, key=f"k{n}") for n in range(20)))

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["pay_url"] for answer in answers}) == 1
    async with paying.shop.database.transaction() as session:
        rows = (await session.execute(select(func.count()).where(Payment.order_id == order.id))).scalar_one()
    assert rows == 1


@pytest.mark.parametrize("wrong", ["amount", "cancelled"])
async def test_a_payment_that_nobody_can_make_is_no_success(
    paying: Paying, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """The provider answers with another amount, or with an intent that it has given up: there is no page to pay at."""
    order = await _bought(paying)
    intent = (
        intent_of(order, amount_minor=order.total_minor + 1)
        if wrong == "amount"
        else intent_of(order, status="cancelled")
    )

    async def create(*_: object, **__: object) -> Intent:
        return intent

    monkeypatch.setattr(HttpGateway, "create", create)
    answer = await paying.start(order.id, order.user_id)

    assert (answer.status_code, answer.json()["code"]) == (503, "provider_unavailable")
    assert (await order_of(paying.shop, order.id)).status == OrderStatus.RESERVED


async def _cancelled_at_the_provider(paying: Paying, order: Order) -> tuple[str, str]:
    """The page and the id of an intent that the provider has ended while its order waits for it."""
    pay_url = (await paying.start(order.id, order.user_id)).json()["pay_url"]
    intent_id = pay_url.rsplit("/", 1)[1]
    answer = await paying.provider.post(f"/v1/intents/{intent_id}/cancel", headers=paying.provider_headers())
    assert answer.status_code == 200, answer.text

    async def known() -> bool:
        return (await payment_of(paying.shop, order.id)).status == "cancelled"

    await wait_until(known, reason="the shop knows that the intent is cancelled")
    return pay_url, intent_id


async def test_an_order_whose_intent_the_provider_has_ended_is_paid_with_the_next_one(paying: Paying) -> None:
    """At most one of them can be paid at a time, and what is told of the old one later says nothing any more."""
    order = await _bought(paying)
    old_url, old_id = await _cancelled_at_the_provider(paying, order)

    answer = await paying.start(order.id, order.user_id)

    assert (answer.status_code, answer.json()["status"]) == (201, "open"), answer.text
    assert answer.json()["pay_url"] != old_url
    assert (await paying.attempt(old_url)).json()["code"] == "intent_cancelled"
    late = intent_of(order, status="cancelled", intent_id=old_id)
    assert await tell(paying.shop, event_of(late, "payment.cancelled")) == "superseded"
    assert (await paying.attempt(answer.json()["pay_url"])).status_code == 200
    await _paid(paying, order.id)


async def test_money_on_an_intent_that_was_given_up_rings_and_pays_nothing(paying: Paying) -> None:
    order = await _bought(paying)
    _, old_id = await _cancelled_at_the_provider(paying, order)
    await paying.start(order.id, order.user_id)
    alarms = metrics.PAYMENT_MISMATCHES.labels("mismatch")._value.get()

    told = await tell(paying.shop, event_of(intent_of(order, captured=True, intent_id=old_id)))

    assert told == "mismatch"
    assert metrics.PAYMENT_MISMATCHES.labels("mismatch")._value.get() == alarms + 1
    assert (await order_of(paying.shop, order.id)).status == OrderStatus.RESERVED


async def test_an_order_whose_intents_are_ended_again_and_again_is_refused_at_the_bound(paying: Paying) -> None:
    order = await _bought(paying)
    await _cancelled_at_the_provider(paying, order)
    async with paying.shop.database.transaction() as session:
        most = paying.shop.settings.payment_attempts_max
        await session.execute(update(Payment).where(Payment.order_id == order.id).values(attempt=most))

    answer = await paying.start(order.id, order.user_id)

    assert (answer.status_code, answer.json()["code"]) == (409, "payment_over")


async def test_the_same_key_starts_once_and_says_so(paying: Paying) -> None:
    order = await _bought(paying)

    first, again, other = [await paying.start(order.id, order.user_id, key=key) for key in ("a", "a", "b")]

    assert [answer.status_code for answer in (first, again, other)] == [201, 200, 201]
    assert [answer.headers.get("Idempotency-Replayed") for answer in (first, again, other)] == [None, "true", None]
    assert first.json() == again.json() == other.json()


async def test_a_start_that_failed_is_no_start_for_its_key(paying: Paying) -> None:
    order = await _bought(paying)
    await paying.behave(refuse_share=1.0)
    assert (await paying.start(order.id, order.user_id)).status_code == 503
    await paying.behave()

    async def started() -> Any:
        answer = await paying.start(order.id, order.user_id)
        return answer if answer.status_code != 503 else None

    answer = await wait_until(started, reason="the provider is asked again")
    assert (answer.status_code, answer.headers.get("Idempotency-Replayed")) == (201, None)


async def _read(paying: Paying, order: Order) -> httpx.Response:
    client = await paying.shop.client()
    return await client.get(f"/v1/orders/{order.id}", headers=paying.shop.headers(order.user_id))


async def test_a_payment_is_followed_where_its_order_is_a_decline_too(paying: Paying) -> None:
    """Each state has a tag of its own, so that whoever polls or follows is told of it."""
    order = await _bought(paying)
    seen = [await _read(paying, order)]

    async def changed() -> httpx.Response | None:
        answer = await _read(paying, order)
        return answer if answer.json()["payment"] != seen[-1].json()["payment"] else None

    pay_url = (await paying.start(order.id, order.user_id)).json()["pay_url"]
    seen.append(await wait_until(changed, reason="it is open"))
    for outcome in ("decline", "decline", "pay"):
        await paying.attempt(pay_url, outcome)
        seen.append(await wait_until(changed, reason=outcome))
    client, headers = await paying.shop.client(), paying.shop.admin_headers(key=f"refund-{order.id}")
    await client.post(f"/v1/admin/orders/{order.id}/refund", headers=headers, json={})

    async def refunded() -> httpx.Response | None:
        answer = await _read(paying, order)
        return answer if answer.json()["payment"]["refunded_minor"] else None

    seen.append(await wait_until(refunded, reason="the money is back"))

    payments = [answer.json()["payment"] for answer in seen]
    assert payments[0] is None
    assert [(each["status"], each["declines"], each["decline_code"]) for each in payments[1:]] == [
        ("open", 0, None),
        ("open", 1, "card_declined"),
        ("open", 2, "card_declined"),
        ("captured", 2, "card_declined"),
        ("captured", 2, "card_declined"),
    ]
    assert [each["pay_url"] for each in payments[1:]] == [pay_url, pay_url, pay_url, None, None]
    assert (payments[-1]["refund"], payments[-1]["refunded_minor"]) == ("done", order.total_minor)
    assert len({answer.headers["ETag"] for answer in seen}) == len(seen)
    held = await client.get(
        f"/v1/orders/{order.id}",
        headers={**paying.shop.headers(order.user_id), "If-None-Match": seen[-1].headers["ETag"]},
    )
    assert held.status_code == 304, "the version that Postgres counts is the one of the document"


async def test_a_decline_comes_in_the_stream_of_its_order(paying: Paying) -> None:
    order = await _bought(paying)
    pay_url = (await paying.start(order.id, order.user_id)).json()["pay_url"]
    async with following(paying.shop, str(order.id), order.user_id) as stream:
        first = await stream.next()
        await paying.attempt(pay_url, "decline")
        second = await stream.next()

    assert (first.order["payment"]["declines"], second.order["payment"]["declines"]) == (0, 1)
    assert int(second.id) > int(first.id)
