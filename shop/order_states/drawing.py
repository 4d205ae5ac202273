"""An order's state as bytes: what `OrderRead` writes, to the byte, without a model for each order."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter, itemgetter
from typing import NamedTuple

import msgspec

from shop.ledger.client import LedgerOrder
from shop.order_states.repository import EVENT, LINE, PAYMENT_OF_ITS_MONEY, Row, SaleTerms
from shop.orders.models import OrderStatus

RECORDED = 2  # the version of an order that has just got its row, see `shop.orders.versions`


class Drawn(NamedTuple):
    """A state as it is answered, whose order it is, and its version; 1 is an order that has no row yet."""

    user_id: str
    version: int
    tag: str
    body: bytes


class _Line(msgspec.Struct, gc=False):
    product_id: int
    quantity: int
    price_minor: int
    currency: str


class _Entry(msgspec.Struct, gc=False):
    event: str
    at: datetime
    by: str
    reason: str


class _Payment(msgspec.Struct, gc=False):
    object: str
    status: str
    amount_minor: int
    currency: str
    pay_url: str | None
    declines: int
    decline_code: str | None
    refund: str | None
    refunded_minor: int


class _Order(msgspec.Struct, gc=False):
    object: str
    id: str
    sale_id: int | None
    status: str
    quantity: int
    total_minor: int
    currency: str
    lines: list[_Line]
    reserved_at: datetime
    expires_at: datetime
    closed_at: datetime | None
    released_at: datetime | None
    recorded: bool
    poll_after_ms: int | None
    payment: _Payment | None
    timeline: list[_Entry]


_encode = msgspec.json.Encoder().encode
_number, _at = itemgetter(2), attrgetter("at")


def draw_recorded(order_id: str, rows: Sequence[Row]) -> Drawn:
    """The state of an order that has its row; `rows` are those of `repository.STATES` about it, its own first."""
    order, *others = rows
    (_, _, sale_id, status, user_id, currency, _, _, quantity, total_minor, _, *moments) = order
    reserved_at, expires_at, closed_at, released_at = moments
    lines: list[Row] = []
    events: list[Row] = []
    payments: list[Row] = []
    for row in others:
        (lines if row[0] == LINE else events if row[0] == EVENT else payments).append(row)
    if len(lines) > 1:
        lines.sort(key=_number)
    version = RECORDED + len(events) + (released_at is not None) + sum(row[2] for row in payments)
    body = _encode(
        _Order(
            "order", order_id, sale_id, status, quantity, total_minor, currency,
            [_Line(line[10], line[8], line[9], currency) for line in lines],
            reserved_at, expires_at, closed_at, released_at, True, None,
            _payment(payments) if payments else None, _timeline(reserved_at, released_at, events),
        )
    )  # fmt: skip
    return Drawn(user_id, version, f'W/"{version}"', body)


def is_final(rows: Sequence[Row]) -> bool:
    """Whether nothing is awaited any more: the order is closed and its units are back, or it is refunded without.

    Money that comes late is told by its timeline and a notification.
    """
    (_, _, _, status, _, _, _, _, _, _, _, _, _, closed_at, released_at) = rows[0]
    return status == OrderStatus.REFUNDED if closed_at is None else released_at is not None


def draw_unrecorded(order_id: str, sale: SaleTerms, entry: LedgerOrder, *, poll_after_ms: int) -> Drawn:
    """The state of an order that is accepted, while its row is on the way."""
    reserved_at = datetime.fromtimestamp(entry.reserved_ms / 1000, UTC)
    body = _encode(
        _Order(
            "order", order_id, sale.sale_id, "reserved", entry.quantity, entry.quantity * sale.price_minor,
            sale.currency, [_Line(sale.product_id, entry.quantity, sale.price_minor, sale.currency)],
            reserved_at, reserved_at + timedelta(seconds=sale.hold_seconds), None, None, False, poll_after_ms,
            None, _timeline(reserved_at, None, ()),
        )
    )  # fmt: skip
    return Drawn(entry.user_id, 1, f'W/"1-{poll_after_ms}"', body)


def _payment(rows: Sequence[Row]) -> _Payment | None:
    """The payment to be seen: none before the first answer of the provider, and the one that has paid if there is."""
    seen: Row | None = None
    for row in rows:
        if (row[3] != "wanted" or row[10] > 1) and (seen is None or row[0] == PAYMENT_OF_ITS_MONEY):
            seen = row
    if seen is None:
        return None
    _, _, _, status, decline_code, currency, pay_url, refund, declines, amount_minor, *_ = seen
    refunded_minor = amount_minor if refund == "done" else 0
    pay_url = pay_url if status == "open" else None
    return _Payment(
        "payment", status, amount_minor, currency, pay_url, declines, decline_code, refund, refunded_minor
    )  # fmt: skip


def _timeline(reserved_at: datetime, released_at: datetime | None, events: Sequence[Row]) -> list[_Entry]:
    """As `shop.orders.service` tells it: that it was made comes first, whatever the clock of the ledger says."""
    made = _Entry("reserved", reserved_at, "buyer", "asked for by the buyer")
    if not events and released_at is None:
        return [made]
    entries = [_Entry(row[3], row[11], row[4], row[5]) for row in sorted(events, key=_number)]
    if released_at is not None:
        entries.append(_Entry("released", released_at, "shop", "the units are back"))
    return [made, *sorted(entries, key=_at)]
