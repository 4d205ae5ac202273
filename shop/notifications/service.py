"""The rules of webhooks and dead letters, for the admin."""

import base64
import secrets
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from shop.admin_events import record_admin_event
from shop.auth import Actor
from shop.database import Database
from shop.errors import DeadLetterNotFound, TooManyWebhooks, WebhookDisabled, WebhookNotFound, WebhookUrlRefused
from shop.notifications import repository
from shop.notifications.addresses import AddressRefused, check_url
from shop.notifications.models import Webhook
from shop.notifications.repository import Letter
from shop.notifications.schemas import DeliveryRead, WebhookCreate, WebhookPatch
from shop.settings import Settings

SECRET_BYTES = 32
# Merchants have a day to take over a new secret.
SECRET_OVERLAP = timedelta(hours=24)


async def create(database: Database, actor: Actor, new: WebhookCreate, settings: Settings) -> Webhook:
    """Make a webhook, with a secret. Raises WebhookUrlRefused, or TooManyWebhooks."""
    url = await _checked(new.url, settings)
    async with database.transaction() as session:
        await repository.lock_webhooks(session)
        if await repository.count_webhooks(session) >= settings.webhooks_max:
            raise TooManyWebhooks(f"There may be {settings.webhooks_max:,}")
        webhook = await repository.add_webhook(
            session, url=url, events=[*new.events], description=new.description, secret=new_secret()
        )
        record_admin_event(
            session, actor, action="webhook.created", subject="webhook", subject_id=webhook.id, url=url,
            events=webhook.events,
        )  # fmt: skip
    return webhook


async def find(session: AsyncSession, webhook_id: int) -> Webhook:
    """The webhook. Raises WebhookNotFound."""
    webhook = await repository.find_webhook(session, webhook_id)
    if webhook is None:
        raise WebhookNotFound
    return webhook


async def change(database: Database, actor: Actor, webhook_id: int, patch: WebhookPatch, settings: Settings) -> Webhook:
    """Change what the patch names, and nothing else. Raises WebhookNotFound, or WebhookUrlRefused."""
    changes = patch.changes()
    if "url" in changes:
        changes["url"] = await _checked(changes["url"], settings)
    async with database.transaction() as session:
        if not changes:
            return await find(session, webhook_id)
        fields = {name: value for name, value in changes.items() if name != "enabled"}
        if changes.get("enabled") is True:
            fields |= {"disabled_at": None, "disabled_reason": None, "failing_since": None}
        elif changes.get("enabled") is False:
            fields |= {"disabled_at": repository.now(), "disabled_reason": "admin"}
        webhook = await repository.change_webhook(session, webhook_id, fields)
        if webhook is None:
            raise WebhookNotFound
        record_admin_event(
            session, actor, action="webhook.changed", subject="webhook", subject_id=webhook_id, changes=changes
        )
    return webhook


async def delete(session: AsyncSession, actor: Actor, webhook_id: int) -> None:
    """Tell it nothing any more, what is pending neither. Raises WebhookNotFound."""
    if await repository.change_webhook(session, webhook_id, {"deleted_at": repository.now()}) is None:
        raise WebhookNotFound
    record_admin_event(session, actor, action="webhook.deleted", subject="webhook", subject_id=webhook_id)


async def rotate_secret(session: AsyncSession, actor: Actor, webhook_id: int) -> Webhook:
    """Give it a new secret; the old one signs too for a day. Raises WebhookNotFound."""
    webhook = await repository.rotate_secret(session, webhook_id, new_secret(), overlap=SECRET_OVERLAP)
    if webhook is None:
        raise WebhookNotFound
    record_admin_event(session, actor, action="webhook.secret_rotated", subject="webhook", subject_id=webhook_id)
    return webhook


async def retry(session: AsyncSession, actor: Actor, delivery_id: int, settings: Settings) -> DeliveryRead:
    """Let a dead letter be tried anew, for as long as the first time. Twice is the same as once.

    Raises DeadLetterNotFound, or WebhookDisabled when nobody would be told.
    """
    letter = await repository.find_letter(session, delivery_id)
    if letter is None:
        raise DeadLetterNotFound
    webhook_id = letter.delivery.webhook_id
    if webhook_id is not None and not await repository.listens(session, webhook_id):
        raise WebhookDisabled("Enable it first, or let the letter be")
    lasting = timedelta(hours=settings.delivery_retry_hours_max)
    if await repository.revive(session, delivery_id, lasting=lasting):
        record_admin_event(session, actor, action="delivery.retried", subject="delivery", subject_id=delivery_id)
    return letter_read(letter)


def letter_read(letter: Letter) -> DeliveryRead:
    """A delivery as admins see it."""
    delivery, notification, url = letter
    pending = delivery.delivered_at is None and delivery.dead_at is None
    return DeliveryRead(
        id=delivery.id,
        notification_id=notification.id,
        event=notification.kind,
        sink=delivery.sink,
        webhook_id=delivery.webhook_id,
        url=url,
        user_id=notification.user_id,
        order_id=notification.order_id,
        tries=delivery.tries,
        last_error=delivery.last_error,
        next_try_at=delivery.next_try_at if pending else None,
        delivered_at=delivery.delivered_at,
        dead_at=delivery.dead_at,
        created_at=delivery.created_at,
        payload=notification.payload,
    )


def new_secret() -> str:
    """A secret in the form of Standard Webhooks."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


async def _checked(url: str, settings: Settings) -> str:
    """The URL in its one form. It asks the network, so no transaction may be open. Raises WebhookUrlRefused."""
    try:
        return await check_url(
            url,
            private_allowed=settings.webhook_private_addresses_allowed,
            timeout=settings.delivery_timeout_seconds,
        )
    except AddressRefused as error:
        raise WebhookUrlRefused(str(error)) from error
