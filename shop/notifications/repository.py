"""Every query of the admin about webhooks and dead letters."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from shop.notifications.models import Delivery, Notification, Webhook

# Whoever adds a webhook holds it, so that two at once do not both take the last place.
WEBHOOKS_LOCK = 0x5348_5748


class Letter(NamedTuple):
    """A delivery, as far as it is told of, with the URL it was meant for."""

    delivery: Delivery
    notification: Notification
    url: str | None


async def lock_webhooks(session: AsyncSession) -> None:
    """Let those who add webhooks pass one by one."""
    await session.execute(select(func.pg_advisory_xact_lock(WEBHOOKS_LOCK)))


async def count_webhooks(session: AsyncSession) -> int:
    """How many there are."""
    query = select(func.count()).select_from(Webhook).where(Webhook.deleted_at.is_(None))
    return (await session.execute(query)).scalar_one()


async def add_webhook(session: AsyncSession, **fields: Any) -> Webhook:
    """The new webhook, with its id."""
    webhook = Webhook(**fields)
    session.add(webhook)
    await session.flush()
    return webhook


async def webhook_page(
    session: AsyncSession, *, limit: int, starting_after: int | None
) -> tuple[Sequence[Webhook], bool]:
    """Up to `limit` webhooks, the newest first, and whether there are more."""
    query = select(Webhook).where(Webhook.deleted_at.is_(None)).order_by(Webhook.id.desc()).limit(limit + 1)
    if starting_after is not None:
        query = query.where(Webhook.id < starting_after)
    rows = (await session.scalars(query)).all()
    return rows[:limit], len(rows) > limit


async def find_webhook(session: AsyncSession, webhook_id: int) -> Webhook | None:
    """The webhook, unless it was deleted."""
    query = select(Webhook).where(Webhook.id == webhook_id, Webhook.deleted_at.is_(None))
    return (await session.scalars(query)).one_or_none()


async def change_webhook(session: AsyncSession, webhook_id: int, fields: dict[str, Any]) -> Webhook | None:
    """The webhook with these fields changed, or None when there is none."""
    statement = update(Webhook).where(Webhook.id == webhook_id, Webhook.deleted_at.is_(None)).values(**fields)
    changed = statement.returning(Webhook)
    return (await session.scalars(changed, execution_options={"populate_existing": True})).one_or_none()


async def rotate_secret(session: AsyncSession, webhook_id: int, secret: str, *, overlap: timedelta) -> Webhook | None:
    """The webhook with this secret; the one that it had signs beside it for so long."""
    fields = {
        "previous_secret": Webhook.secret,
        "previous_secret_until": func.now() + overlap,
        "secret": secret,
    }
    return await change_webhook(session, webhook_id, fields)


def now() -> ColumnElement[datetime]:
    """Postgres time, for the fields of a change."""
    return func.now()


async def dead_page(
    session: AsyncSession, *, limit: int, starting_after: int | None, webhook_id: int | None
) -> tuple[Sequence[Letter], bool]:
    """Up to `limit` dead letters, the newest first, and whether there are more."""
    query = _letters().where(Delivery.dead_at.is_not(None)).order_by(Delivery.id.desc()).limit(limit + 1)
    if starting_after is not None:
        query = query.where(Delivery.id < starting_after)
    if webhook_id is not None:
        query = query.where(Delivery.webhook_id == webhook_id)
    rows = [Letter(*row) for row in await session.execute(query)]
    return rows[:limit], len(rows) > limit


async def find_letter(session: AsyncSession, delivery_id: int) -> Letter | None:
    """A delivery, whatever became of it."""
    row = (await session.execute(_letters().where(Delivery.id == delivery_id))).one_or_none()
    return Letter(*row) if row else None


async def revive(session: AsyncSession, delivery_id: int, *, lasting: timedelta) -> bool:
    """Let a dead letter be tried anew from now on; whether it was dead."""
    statement = (
        update(Delivery)
        .where(Delivery.id == delivery_id, Delivery.dead_at.is_not(None))
        .values(dead_at=None, tries=0, next_try_at=func.now(), give_up_at=func.now() + lasting)
        .returning(Delivery)
    )
    return (await session.scalars(statement, execution_options={"populate_existing": True})).one_or_none() is not None


async def listens(session: AsyncSession, webhook_id: int) -> bool:
    """Whether a webhook is told of things: it is neither disabled nor deleted."""
    query = select(Webhook.id).where(
        Webhook.id == webhook_id, Webhook.disabled_at.is_(None), Webhook.deleted_at.is_(None)
    )
    return (await session.execute(query)).first() is not None


def _letters() -> Select[Delivery, Notification, str]:
    return (
        select(Delivery, Notification, Webhook.url)
        .join(Notification, Notification.id == Delivery.notification_id)
        .outerjoin(Webhook, Webhook.id == Delivery.webhook_id)
    )
