"""All payments as JSON, and what may be asked of them."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from shop.ledger.order_ids import USER_ID_PATTERN
from shop.paging import ListQuery
from shop.payments.models import PaymentStatus, RefundStatus


class PaymentQuery(ListQuery):
    """Which payments to list."""

    starting_after: UUID | None = Field(None, description="The last order_id of the page before.")
    status: PaymentStatus | None = None
    order_id: UUID | None = None
    user_id: Annotated[str | None, Field(pattern=USER_ID_PATTERN)] = None
    currency: Annotated[str | None, Field(pattern="^[A-Z]{3}$")] = None
    unsettled: bool | None = Field(None, description="Whether its money is captured, and no order's and no refund's.")
    mismatch: Literal[True] | None = Field(None, description="Only those of which the provider told something else.")


class PaymentAdminRead(BaseModel):
    """The payment of an order, as an admin sees it. `paid_order_id` is the order that has its money."""

    object: Literal["payment"] = "payment"
    order_id: UUID
    user_id: str
    intent_id: str | None
    status: PaymentStatus
    amount_minor: int
    currency: str
    captured_at: datetime | None
    settled_at: datetime | None
    paid_order_id: UUID | None
    refund_status: RefundStatus | None
    created_at: datetime


class PaymentAdminPage(BaseModel):
    """One page of all payments, the newest first."""

    object: Literal["list"] = "list"
    data: list[PaymentAdminRead]
    has_more: bool
