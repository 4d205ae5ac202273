"""What the sandbox keeps and shows: intents, their refunds, and the events that tell of them."""

from typing import Literal

import msgspec

Status = Literal["open", "captured", "cancelled"]


class Refund(msgspec.Struct, frozen=True):
    """Money that went back; `key` is the one it was asked for with."""

    id: str
    key: str
    amount_minor: int


class Intent(msgspec.Struct, frozen=True):
    """A payment, as it is at one moment."""

    id: str
    order_id: str
    amount_minor: int
    currency: str
    status: Status
    captured_minor: int
    refunded_minor: int
    refunds: list[Refund]
    attempts: int
    pay_url: str
    created_at: str
    decline_code: str | None = None


class Event(msgspec.Struct, frozen=True):
    """One thing that happened; `seq` counts them without a gap, and `data` is the intent as JSON."""

    id: str
    seq: int
    type: str
    created_at: str
    data: msgspec.Raw


class Delivery(msgspec.Struct, frozen=True):
    """An event whose webhook is due, and how often it was tried in vain."""

    event: Event
    intent_id: str
    tries: int
