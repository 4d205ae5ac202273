"""What happened as rows of the outbox: the id and the payload of a notification, and to whom it goes."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from shop.failure_isolation import Isolation
from shop.notifications.collecting.repository import BoughtLine
from shop.notifications.kinds import Kind, Sink
from shop.orders.models import Order
from shop.settings import Settings

NAMESPACE = UUID("7d4a2a86-5f4e-4c57-9d0e-6a9d2f6f0c11")


@dataclass(frozen=True)
class Happening:
    """One thing that happened to a user, mostly to one of their orders."""

    kind: Kind
    at: datetime
    user_id: str
    order: Order | None = None
    reason: str | None = None

    @property
    def notification_id(self) -> UUID:
        """It follows from what happened: the same thing, read twice, is the same notification."""
        return notification_id(self.kind, self.order.id if self.order else self.user_id)


def notification_id(kind: Kind, subject: UUID | str) -> UUID:
    """The notification that tells this of an order, or of a user."""
    return uuid5(NAMESPACE, f"{kind} {subject}")


@dataclass(frozen=True)
class Listeners:
    """Who is told of what: the log and the mail of everything, each webhook of what it asked for."""

    log: bool
    mail: bool
    webhooks: Sequence[tuple[int, frozenset[str]]]

    def want(self, *kinds: Kind) -> bool:
        """Whether anybody wants to hear of any of these."""
        return self.log or self.mail or any(events & set(kinds) for _, events in self.webhooks)


def listeners_of(settings: Settings, webhooks: Sequence[tuple[int, object]], isolation: Isolation) -> Listeners:
    """Who listens, by the settings and the webhooks, as (id, kinds). One that says it in no list is told of nothing."""
    asked = []
    for webhook_id, events in webhooks:
        if isinstance(events, list):
            asked.append((webhook_id, frozenset(map(str, events))))
        elif not isolation.backs_off(("webhook", webhook_id)):
            isolation.failed(("webhook", webhook_id), TypeError("the events of the webhook are no list"))
    return Listeners(log=settings.notification_log, mail=settings.smtp_url is not None, webhooks=asked)


def notification_rows(
    happened: Sequence[Happening],
    listeners: Listeners,
    lines: Mapping[UUID, Sequence[BoughtLine]],
    with_address: AbstractSet[str],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of the notifications that somebody wants, and of their deliveries."""
    notifications: list[dict[str, Any]] = []
    deliveries: list[dict[str, Any]] = []
    for each in happened:
        to: list[tuple[Sink, int | None]] = [(Sink.LOG, None)] if listeners.log else []
        to += [(Sink.MAIL, None)] if listeners.mail and each.user_id in with_address else []
        to += [(Sink.WEBHOOK, webhook_id) for webhook_id, events in listeners.webhooks if each.kind in events]
        if to:
            notifications.append(_row(each, lines))
            deliveries += [
                {"notification_id": each.notification_id, "sink": sink, "webhook_id": webhook_id}
                for sink, webhook_id in to
            ]
    return notifications, deliveries


def _row(each: Happening, lines: Mapping[UUID, Sequence[BoughtLine]]) -> dict[str, Any]:
    return {
        "id": each.notification_id,
        "kind": each.kind,
        "order_id": each.order.id if each.order else None,
        "user_id": each.user_id,
        "payload": {"type": each.kind.value, "timestamp": _time(each.at), "data": _data(each, lines)},
    }


def _data(each: Happening, lines: Mapping[UUID, Sequence[BoughtLine]]) -> dict[str, Any]:
    order = each.order
    if order is None:
        return {"user_id": each.user_id}
    return {
        "order_id": str(order.id),
        "sale_id": order.sale_id,
        "user_id": order.user_id,
        "quantity": order.quantity,
        "total_minor": order.total_minor,
        "currency": order.currency,
        "lines": [line._asdict() for line in lines.get(order.id, ())],
        "reserved_at": _time(order.reserved_at),
        "expires_at": _time(order.expires_at),
        "replaces": str(order.replaces) if order.replaces else None,
        "reason": each.reason,
    }


def _time(at: datetime) -> str:
    """ISO 8601 in UTC; every time in here is one of Postgres, whose session is in UTC."""
    return at.isoformat().replace("+00:00", "Z")
