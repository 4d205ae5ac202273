"""The provider's webhook over HTTP: ingested once, and only if it is the provider's."""

import base64
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from standardwebhooks import Webhook

from shop.orders.models import Order, OrderStatus
from shop.payments.contract import ProviderEvent
from tests.payments.conftest import Paying
from tests.payments.orders import event_of, intent_of, one_bought, order_of, payment_of

HOOK = "/v1/payments/webhook"


def _signed(
    paying: Paying, event: ProviderEvent, *, at: datetime | None = None, secret: str | None = None
) -> dict[str, Any]:
    body = msgspec.json.encode(event).decode()
    secret = secret or paying.shop.settings.webhook_secrets[0]
    at = at or datetime.now(UTC)
    headers = {
        "webhook-id": event.id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(event.id, at, body),
        "content-type": "application/json",
    }
    return {"headers": headers, "content": body}


async def _captured(paying: Paying) -> tuple[Order, ProviderEvent]:
    order = await one_bought(paying.shop, await paying.shop.open_sale(units=1))
    await paying.webhooks(on=False)
    await paying.start(order.id, order.user_id)
    intent_id = (await payment_of(paying.shop, order.id)).intent_id
    return order, event_of(intent_of(order, captured=True, intent_id=intent_id), event_id=f"evt_{secrets.token_hex(8)}")


async def test_a_webhook_that_is_replayed_is_ingested_once(paying: Paying) -> None:
    order, event = await _captured(paying)
    client = await paying.shop.client()

    answers = [await client.post(HOOK, **_signed(paying, event)) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [204, 204, 204]
    assert (await order_of(paying.shop, order.id)).status == OrderStatus.PAID


@pytest.mark.parametrize("forgery", ["secret", "stale", "future", "missing", "other body", "other id"])
async def test_a_forged_or_stale_webhook_moves_nothing(paying: Paying, forgery: str) -> None:
    order, event = await _captured(paying)
    sent = _signed(paying, event)
    if forgery == "secret":
        sent = _signed(paying, event, secret="whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())
    elif forgery in {"stale", "future"}:
        distance = timedelta(minutes=-6 if forgery == "stale" else 6)
        sent = _signed(paying, event, at=datetime.now(UTC) + distance)
    elif forgery == "missing":
        del sent["headers"]["webhook-signature"]
    elif forgery == "other body":
        sent["content"] = sent["content"].replace('"captured_minor"', '"captured_minor" ')
    else:
        sent["headers"]["webhook-id"] = "evt_another"

    answer = await (await paying.shop.client()).post(HOOK, **sent)

    assert (answer.status_code, answer.json()["code"]) == (401, "webhook_signature")
    assert (await order_of(paying.shop, order.id)).status == OrderStatus.RESERVED


async def test_an_oversized_or_senseless_webhook_is_refused(paying: Paying) -> None:
    client = await paying.shop.client()
    large = await client.post(HOOK, content=b"x" * (paying.shop.settings.body_bytes_max + 1))
    at, body = datetime.now(UTC), "not an event"
    headers = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(paying.shop.settings.webhook_secrets[0]).sign("evt_1", at, body),
    }
    senseless = await client.post(HOOK, content=body, headers=headers)

    assert (large.status_code, large.json()["code"]) == (413, "body_too_large")
    assert (senseless.status_code, senseless.json()["code"]) == (400, "webhook_invalid")
