"""What a sink is, what may become of a delivery, and the simplest sink: the log."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import structlog

from shop.notifications.kinds import Sink

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Receiver:
    """Where deliveries go one after the other: a sink, and of webhooks each by itself."""

    sink: Sink
    webhook_id: int | None = None


@dataclass(frozen=True)
class WebhookTarget:
    """The URL of a webhook and what signs for it, the newest secret first."""

    url: str
    secrets: tuple[str, ...]


@dataclass(frozen=True)
class Leased:
    """A delivery that nobody else tries until its lease is over, with everything that a sink needs to know."""

    id: int
    tries: int
    notification_id: UUID
    kind: str
    order_id: UUID | None
    user_id: str
    payload: dict[str, Any]
    created_at: datetime
    email: str | None = None
    webhook: WebhookTarget | None = None
    stale: bool = False
    """What it says is not true any more, such as a reminder of a hold whose order is paid."""


class NotDelivered(Exception):
    """This try failed, and a later one may not; the message is kept for the admin and must hold no secrets."""


class Undeliverable(NotDelivered):
    """No later try can succeed."""


class Stale(Undeliverable):
    """What it was to say is not true any more; nobody was asked."""


class Gone(Undeliverable):
    """The receiver says that it is not there any more, and wants to hear nothing ever again."""


class Channel(Protocol):
    """One way to tell people."""

    async def deliver(self, leased: Leased) -> None:
        """Tell it. Raises NotDelivered; anything else that is raised counts as that as well."""

    async def close(self) -> None:
        """Close every connection."""


class LogChannel:
    """Writes notifications into the log, without what is personal in them."""

    async def deliver(self, leased: Leased) -> None:
        """Write one event."""
        log.info(
            "notification",
            notification_id=str(leased.notification_id),
            kind=leased.kind,
            order_id=str(leased.order_id) if leased.order_id else None,
            user_id=leased.user_id,
        )

    async def close(self) -> None:
        """There is nothing to close."""
