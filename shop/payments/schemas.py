"""Payments and refunds as JSON."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from shop.bounds import SUM_MINOR_MAX, Text
from shop.payments.models import PaymentStatus, RefundStatus
from shop.products.schemas import Currency


class PaymentRequest(BaseModel):
    """How an order is to be paid."""

    model_config = ConfigDict(extra="forbid")

    return_url: Annotated[
        str | None,
        Field(
            max_length=2_000,
            description="Where the payment page sends the buyer afterwards: a page of one of the shop's own origins."
            " The request that begins an attempt to pay decides.",
            examples=["https://shop.example/orders/thanks"],
        ),
    ] = None


class PaymentRead(BaseModel):
    """The payment of an order. While it is `open`, `pay_url` is where to pay, until `expires_at`."""

    object: Literal["payment"] = "payment"
    order_id: UUID
    status: PaymentStatus
    amount_minor: int
    currency: str
    pay_url: str | None
    expires_at: datetime


class RefundRequest(BaseModel):
    """All the money of a paid order goes back. `restock` puts the units on sale again; else they are kept."""

    model_config = ConfigDict(extra="forbid")

    restock: Annotated[bool, Field(strict=True)] = True
    amount_minor: Annotated[
        int | None, Field(strict=True, ge=0, le=SUM_MINOR_MAX, description="If sent, what was captured.")
    ] = None
    currency: Annotated[Currency | None, Field(description="If sent, that of what was captured.")] = None
    reason: Annotated[str, Text(64)] = "refunded by the shop"


class RefundRead(BaseModel):
    """A refund: `pending` until the provider has said that it is done; `taken_back` if it says later that it is not."""

    object: Literal["refund"] = "refund"
    order_id: UUID
    status: RefundStatus
    amount_minor: int
    currency: str
    restocked: bool
    reason: str


class MoneyOfCurrency(BaseModel):
    """All captured money of a currency by where it is (I11), and the payments for which that does not hold."""

    object: Literal["money"] = "money"
    currency: str
    captured_minor: int
    paid_minor: int
    refunded_minor: int
    refund_pending_minor: int
    refund_taken_back_minor: int
    unsettled_minor: int
    wrong_payments: int
    balanced: bool


class MoneyReport(BaseModel):
    """The money of each currency that was ever asked for. `balanced` says that every one of them is."""

    object: Literal["list"] = "list"
    data: list[MoneyOfCurrency]
    has_more: Literal[False] = False
    balanced: bool
