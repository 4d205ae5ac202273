"""A merchant can tell that the shop has spoken, with the library that everybody uses."""

from datetime import timedelta

import pytest
from sqlalchemy import func, update
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from shop.database import Database
from shop.notifications import repository
from shop.notifications.models import Webhook
from shop.notifications.service import new_secret
from shop.settings import Settings
from tests.notifications.outbox import deliver, make_webhook, reserved
from tests.notifications.receivers import Request, merchant
from tests.processes import copy_of


@pytest.fixture
def near(settings: Settings) -> Settings:
    return copy_of(settings, webhook_private_addresses_allowed=True)


def verified(request: Request, secret: str) -> bool:
    """Whether the library of the standard believes this request."""
    try:
        Verifier(secret).verify(request.body, request.headers)
    except WebhookVerificationError:
        return False
    return True


async def test_a_request_is_signed_with_the_secret_of_its_webhook(database: Database, near: Settings) -> None:
    async with merchant() as receiver:
        webhook = await make_webhook(database, receiver.url())
        await reserved(database, near)
        await deliver(database, near)

    [request] = receiver.requests
    assert verified(request, webhook.secret)
    assert not verified(request, new_secret())
    assert not verified(Request(request.line, request.headers, request.body + b" "), webhook.secret)


async def test_after_a_rotation_both_secrets_sign_for_a_day(database: Database, near: Settings) -> None:
    new = new_secret()
    async with merchant() as receiver:
        webhook = await make_webhook(database, receiver.url())
        async with database.transaction() as session:
            await repository.rotate_secret(session, webhook.id, new, overlap=timedelta(hours=24))
        await reserved(database, near)
        await deliver(database, near)

        async with database.transaction() as session:
            await session.execute(update(Webhook).values(previous_secret_until=func.now()))
        await reserved(database, near)
        await deliver(database, near)

    during, after = receiver.requests
    assert verified(during, webhook.secret)
    assert verified(during, new)
    assert verified(after, new)
    assert not verified(after, webhook.secret)
