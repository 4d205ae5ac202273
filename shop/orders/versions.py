"""The version of an order as its buyer sees it: it grows with every change, and names a state over HTTP.

1 is an order that is accepted, 2 one that is recorded, and each move adds one, and so do the return of its units and
whatever else changes of its payment. It is the ETag of the order and the `id` of its events. Whatever else `OrderRead`
may ever show must move it, too, and must be read at the same moment: a state that is half old would have the version of
the new one, which is then never told.
"""

import re

from shop.orders.schemas import OrderRead

EVENT_ID = re.compile(r"[0-9]{1,9}")


def version_of(order: OrderRead) -> int:
    """The version of this state; `repository.versions` counts the same in Postgres."""
    return len(order.timeline) + order.recorded + (order.payment.version if order.payment else 0)


def etag(order: OrderRead) -> str:
    """The entity tag of this state. While a client is told when to ask again, another time is another state."""
    return etag_of(version_of(order)) if order.recorded else f'W/"{version_of(order)}-{order.poll_after_ms}"'


def etag_of(version: int) -> str:
    """The entity tag of a recorded order; weak, because the bytes of the same state may differ."""
    return f'W/"{version}"'


def last_seen(last_event_id: str | None) -> int | None:
    """The version that a `Last-Event-ID` names; None when it names none of ours."""
    return int(last_event_id) if last_event_id and EVENT_ID.fullmatch(last_event_id) else None
