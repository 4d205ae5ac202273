"""The trail of one order as JSON."""

from datetime import datetime
from enum import StrEnum
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, JsonValue

from shop.orders.models import OrderStatus


class Source(StrEnum):
    """Who tells of something: which rows, or the ledger in Redis."""

    LEDGER = "ledger"
    RECOVERY = "recovery"
    ORDER = "order"
    PAYMENT = "payment"
    REFUND = "refund"
    PROVIDER = "provider"
    NOTIFICATION = "notification"
    ADMIN = "admin"


class TrailEntry(BaseModel):
    """Something that happened. `at` is of the clock that wrote it: Redis time of the ledger, Postgres time of rows."""

    at: datetime
    source: Source
    event: str
    facts: dict[str, JsonValue]


class LedgerHolding(BaseModel):
    """The order as the ledger in Redis has it now."""

    epoch: int
    seq: int
    quantity: int
    reserved_at: datetime
    status: Literal["held", "released"]


class OrderRow(BaseModel):
    """The order as Postgres has it now."""

    model_config = ConfigDict(from_attributes=True)

    status: OrderStatus
    user_id: str
    quantity: int
    total_minor: int
    currency: str
    epoch: int | None
    seq: int | None
    reserved_at: datetime
    recorded_at: datetime
    expires_at: datetime
    closed_at: datetime | None
    released_at: datetime | None
    replaces: UUID | None
    replaced_by: UUID | None = None


class OrderTrail(BaseModel):
    """Everything that is known of an order, in order of time.

    `row` is null while the order is only in the ledger, `ledger` when the ledger in Redis does not have it (any more).
    `ledger_asked` is false when Redis did not answer. `more` names the sources that have more entries than are shown.
    """

    object: Literal["order_trail"] = "order_trail"
    order_id: UUID
    sale_id: int | None
    row: OrderRow | None
    ledger: LedgerHolding | None
    ledger_asked: bool
    entries: list[TrailEntry]
    more: list[Source]
