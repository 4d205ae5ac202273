"""Orders as JSON."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema

from shop.bounds import Hyphenated, RowId
from shop.errors import OrderNotFound
from shop.ledger.times import iso_time
from shop.orders.life import By
from shop.orders.models import OrderStatus
from shop.orders.payment_of import OrderPayment
from shop.seckill.requests import QUANTITY_MAX

LINES_MAX = 20

OrderId = Annotated[UUID, Hyphenated(OrderNotFound)]


def _as_the_lane_writes_it(at: datetime) -> str:
    return iso_time(round(at.timestamp() * 1000))


# A repeat that is answered from the row has the same text as the first answer.
Moment = Annotated[
    datetime, PlainSerializer(_as_the_lane_writes_it), WithJsonSchema({"type": "string", "format": "date-time"})
]


class PurchaseRead(BaseModel):
    """What was promised. A repeat tells in `status` what has become of the order since.

    If that cannot be found out now, `held` says that its units are its own, paid or not, and `released` that they are
    back.
    """

    object: Literal["order"] = "order"
    id: UUID
    status: OrderStatus | Literal["held", "released"]
    sale_id: int
    quantity: int
    total_minor: int
    currency: str
    reserved_at: Moment
    expires_not_before: Moment
    poll_after_ms: int
    receipt: str


class OrderLineRequest(BaseModel):
    """So many units of one product."""

    model_config = ConfigDict(extra="forbid")

    product_id: RowId
    quantity: Annotated[int, Field(strict=True, ge=1, le=QUANTITY_MAX, examples=[2])]


def _each_product_once(lines: list[OrderLineRequest]) -> list[OrderLineRequest]:
    if len({line.product_id for line in lines}) < len(lines):
        raise ValueError("a product may stand in one line of an order only")
    return lines


class OrderRequest(BaseModel):
    """What the buyer wants of the catalogue: all of these lines or none, each product once."""

    model_config = ConfigDict(extra="forbid")

    lines: Annotated[
        list[OrderLineRequest], Field(min_length=1, max_length=LINES_MAX), AfterValidator(_each_product_once)
    ]


class OrderLineRead(BaseModel):
    """One product of an order."""

    model_config = ConfigDict(from_attributes=True)

    product_id: int
    quantity: int
    price_minor: int
    currency: str


class TimelineEntry(BaseModel):
    """Something that became of an order: when, by whom, why."""

    event: OrderStatus | Literal["released", "replaced", "money_returned"]
    at: datetime
    by: By
    reason: str


class OrderRead(BaseModel):
    """An order. `recorded` is false while it is only in the ledger: it is accepted, and its row is on the way."""

    object: Literal["order"] = "order"
    id: UUID
    sale_id: int | None
    status: OrderStatus
    quantity: int
    total_minor: int
    currency: str
    lines: list[OrderLineRead]
    reserved_at: datetime
    expires_at: datetime
    closed_at: datetime | None
    released_at: datetime | None
    recorded: bool
    poll_after_ms: int | None
    payment: OrderPayment | None
    timeline: list[TimelineEntry]


class OrderSummary(BaseModel):
    """An order in a list."""

    model_config = ConfigDict(from_attributes=True)

    object: Literal["order"] = "order"
    id: UUID
    sale_id: int | None
    status: OrderStatus
    quantity: int
    total_minor: int
    currency: str
    reserved_at: datetime
    expires_at: datetime


class OrderPage(BaseModel):
    """One page of orders. `may_lag` says that an order accepted a moment ago may still be missing here."""

    object: Literal["list"] = "list"
    data: list[OrderSummary]
    has_more: bool
    may_lag: Literal[True] = True
