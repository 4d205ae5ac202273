"""Every query of the deliveries: which are due, the lease of some, what became of them, and what is swept away."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Select, case, delete, false, func, null, select, true, update
from sqlalchemy.ext.asyncio import AsyncSession

from shop.notifications.delivering.sinks import Leased, Receiver, WebhookTarget
from shop.notifications.kinds import Kind, Sink
from shop.notifications.models import ERROR_LENGTH_MAX, Delivery, Notification, Webhook
from shop.orders.models import Order, OrderStatus
from shop.users.models import User

PENDING = Delivery.delivered_at.is_(None) & Delivery.dead_at.is_(None)
LISTENING = Webhook.disabled_at.is_(None) & Webhook.deleted_at.is_(None)
# A reminder of a hold that is over, whoever would get it; and a mail that says until when an order is held, after that.
STALE = ((Notification.kind == Kind.EXPIRING_SOON) & (Order.status != OrderStatus.RESERVED)) | (
    ((Notification.kind == Kind.EXPIRING_SOON) | ((Notification.kind == Kind.RESERVED) & (Delivery.sink == Sink.MAIL)))
    & (Order.expires_at <= func.now())
)


async def receivers_with_due(session: AsyncSession, sinks: Collection[Sink]) -> Sequence[Receiver]:
    """The receivers that something is due for: these sinks, and of webhooks each that is told of things."""
    due = select(Delivery.id).where(PENDING, Delivery.next_try_at <= func.now())
    found = [
        Receiver(sink)
        for sink in sinks
        if sink is not Sink.WEBHOOK
        and await session.scalar(select(due.where(Delivery.sink == sink, Delivery.webhook_id.is_(None)).exists()))
    ]
    of_webhook = due.where(Delivery.sink == Sink.WEBHOOK, Delivery.webhook_id == Webhook.id)
    webhooks = select(Webhook.id).where(LISTENING, of_webhook.exists()).order_by(Webhook.id)
    return [*found, *(Receiver(Sink.WEBHOOK, webhook_id) for webhook_id in await session.scalars(webhooks))]


async def lease(session: AsyncSession, receiver: Receiver, *, limit: int, lasting: timedelta) -> Sequence[Leased]:
    """Up to `limit` deliveries that are due for this receiver; nobody else gets them for so long."""
    due = list(await session.scalars(_due(receiver, limit)))
    if not due:
        return []
    statement = update(Delivery).where(Delivery.id.in_(due))
    await session.execute(
        statement.values(next_try_at=func.now() + lasting, tries=Delivery.tries + 1), execution_options=_UNSYNCHRONIZED
    )
    return await _read(session, due)


async def set_back(session: AsyncSession, receiver: Receiver, *, reason: str, pause: timedelta) -> int | None:
    """Let the delivery that is due first for this receiver wait, because it cannot be read; returns its id."""
    statement = (
        update(Delivery)
        .where(Delivery.id == _due(receiver, 1).scalar_subquery())
        .values(next_try_at=func.now() + pause, tries=Delivery.tries + 1, last_error=reason[:ERROR_LENGTH_MAX])
        .returning(Delivery.id)
    )
    return (await session.execute(statement, execution_options=_UNSYNCHRONIZED)).scalar_one_or_none()


def _due(receiver: Receiver, limit: int) -> Select[int]:
    listening = select(Webhook.id).where(Webhook.id == receiver.webhook_id, LISTENING)
    query = select(Delivery.id).where(
        PENDING,
        Delivery.next_try_at <= func.now(),
        Delivery.sink == receiver.sink,
        Delivery.webhook_id.is_(None)
        if receiver.webhook_id is None
        else (Delivery.webhook_id == receiver.webhook_id) & listening.exists(),
    )
    return query.order_by(Delivery.next_try_at, Delivery.id).limit(limit).with_for_update(skip_locked=True)


async def _read(session: AsyncSession, delivery_ids: Collection[int]) -> Sequence[Leased]:
    previous = case((Webhook.previous_secret_until > func.now(), Webhook.previous_secret), else_=null())
    query = (
        select(
            Delivery.id,
            Delivery.tries,
            Notification,
            User.email,
            Webhook.url,
            Webhook.secret,
            previous,
            func.coalesce(STALE, false()),
        )
        .join(Notification, Notification.id == Delivery.notification_id)
        .outerjoin(Order, Order.id == Notification.order_id)
        .outerjoin(User, User.id == Notification.user_id)
        .outerjoin(Webhook, (Webhook.id == Delivery.webhook_id) & LISTENING)
        .where(Delivery.id.in_(delivery_ids))
        .order_by(Delivery.id)
    )
    return [
        Leased(
            id=delivery_id,
            tries=tries,
            notification_id=told.id,
            kind=told.kind,
            order_id=told.order_id,
            user_id=told.user_id,
            payload=told.payload,
            created_at=told.created_at,
            email=email,
            webhook=WebhookTarget(url, tuple(filter(None, (secret, before)))) if url and secret else None,
            stale=stale,
        )
        for delivery_id, tries, told, email, url, secret, before, stale in await session.execute(query)
    ]


async def record_delivered(session: AsyncSession, delivered: Collection[Leased]) -> None:
    """These were delivered, whoever else has them by now."""
    statement = update(Delivery).where(
        Delivery.id.in_([each.id for each in delivered]), Delivery.delivered_at.is_(None)
    )
    await session.execute(
        statement.values(delivered_at=func.now(), dead_at=None, last_error=None), execution_options=_UNSYNCHRONIZED
    )


async def record_failed(session: AsyncSession, leased: Leased, *, reason: str, pause: timedelta, final: bool) -> bool:
    """Note a try that failed, unless its lease was over and somebody else has it; returns whether it is dead now.

    The next try comes after `pause`, the last one when the delivery is to be given up; what fails then is dead.
    """
    dead = Delivery.give_up_at <= func.now()
    statement = (
        update(Delivery)
        .where(Delivery.id == leased.id, Delivery.tries == leased.tries, PENDING)
        .values(
            next_try_at=func.least(func.now() + pause, func.greatest(Delivery.give_up_at, func.now())),
            dead_at=func.now() if final else case((dead, func.now()), else_=null()),
            last_error=reason[:ERROR_LENGTH_MAX],
        )
        .returning(Delivery.dead_at)
    )
    return (await session.execute(statement, execution_options=_UNSYNCHRONIZED)).scalar_one_or_none() is not None


async def record_health(
    session: AsyncSession, webhook_id: int, *, succeeded: bool, gone: bool, patience: timedelta
) -> str | None:
    """Note whether a webhook answers; returns why it was disabled, if it was now: `gone` or `failing`."""
    alive = (Webhook.id == webhook_id, LISTENING)
    if succeeded and not gone:
        answers = update(Webhook).where(Webhook.id == webhook_id, Webhook.failing_since.is_not(None))
        await session.execute(answers.values(failing_since=None), execution_options=_UNSYNCHRONIZED)
        return None
    if not gone:
        fails = update(Webhook).where(*alive, Webhook.failing_since.is_(None))
        await session.execute(fails.values(failing_since=func.now()), execution_options=_UNSYNCHRONIZED)
    reason = "gone" if gone else "failing"
    too_long = Webhook.failing_since <= func.now() - patience
    disabled = (
        update(Webhook)
        .where(*alive, true() if gone else too_long)
        .values(disabled_at=func.now(), disabled_reason=reason)
        .returning(Webhook.disabled_reason)
    )
    return (await session.execute(disabled, execution_options=_UNSYNCHRONIZED)).scalar_one_or_none()


async def mark_dead(session: AsyncSession, *, after: timedelta, limit: int) -> Sequence[str]:
    """Give up what nobody has tried to its end: its webhook is disabled, or its sink is off. Returns the sinks."""
    late = select(Delivery.id).where(PENDING, Delivery.give_up_at <= func.now() - after).limit(limit)
    dead = (
        update(Delivery)
        .where(Delivery.id.in_(late.with_for_update(skip_locked=True)))
        .values(dead_at=func.now(), last_error=func.coalesce(Delivery.last_error, "nobody was there to be told"))
        .returning(Delivery.sink)
    )
    return (await session.scalars(dead, execution_options=_UNSYNCHRONIZED)).all()


async def prune(session: AsyncSession, *, older_than: timedelta, limit: int) -> int:
    """Delete old notifications with their deliveries, unless one is pending; returns how many."""
    pending = select(Delivery.id).where(Delivery.notification_id == Notification.id, PENDING)
    old = (
        select(Notification.id)
        .where(Notification.created_at < func.now() - older_than, ~pending.exists())
        .order_by(Notification.created_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    statement = delete(Notification).where(Notification.id.in_(old)).returning(Notification.id)
    return len((await session.scalars(statement, execution_options=_UNSYNCHRONIZED)).all())


async def forget_deleted_webhooks(session: AsyncSession, *, older_than: timedelta) -> None:
    """Delete the rows of webhooks that were deleted long ago and that no delivery names any more."""
    named = select(Delivery.id).where(Delivery.webhook_id == Webhook.id)
    statement = delete(Webhook).where(Webhook.deleted_at < func.now() - older_than, ~named.exists())
    await session.execute(statement, execution_options=_UNSYNCHRONIZED)


async def oldest_pending_seconds(session: AsyncSession, *, lasting: timedelta) -> float:
    """The age of the oldest delivery that is pending, or 0. It is given up `lasting` after it was made."""
    age = func.now() - (func.min(Delivery.give_up_at) - lasting)
    seconds = (await session.execute(select(func.extract("epoch", age)).where(PENDING))).scalar_one()
    return max(0.0, float(seconds or 0))


_UNSYNCHRONIZED: dict[str, Any] = {"synchronize_session": False}
