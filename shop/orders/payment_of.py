"""What an order's buyer sees of its payment. Payments are a later stage: they give a reader that sessions carry along.

A session without one, such as that of a command, shows orders without their payments.
"""

from collections.abc import Collection
from typing import Literal, Protocol, runtime_checkable
from uuid import UUID

from pydantic import BaseModel, Field
from sqlalchemy import ColumnElement, literal
from sqlalchemy.ext.asyncio import AsyncSession

PAYMENTS = "payments"  # the name in a session's info


class OrderPayment(BaseModel):
    """The payment of an order as its buyer follows it.

    `wanted` is asked for at the provider, `open` can be paid at `pay_url`, also after a decline; `cancelled` was ended
    unpaid: start it again. `refund` is what becomes of money that goes back.
    """

    object: Literal["payment"] = "payment"
    status: Literal["wanted", "open", "cancelled", "captured"]
    amount_minor: int
    currency: str
    pay_url: str | None
    declines: int
    decline_code: str | None
    refund: Literal["pending", "done", "taken_back"] | None
    refunded_minor: int
    version: int = Field(0, exclude=True)


@runtime_checkable
class Payments(Protocol):
    """Reads the payments of orders."""

    async def of_each(self, session: AsyncSession, order_ids: Collection[UUID]) -> dict[UUID, OrderPayment]:
        """The payments of those of these orders that have one to be seen."""

    def versions(self) -> ColumnElement[int]:
        """How often what is seen of the payment of an `Order` has changed, in a query of orders."""


async def payments_of(session: AsyncSession, order_ids: Collection[UUID]) -> dict[UUID, OrderPayment]:
    """The payments of those of these orders that have one to be seen."""
    reader = session.info.get(PAYMENTS)
    return await reader.of_each(session, order_ids) if isinstance(reader, Payments) and order_ids else {}


def payment_versions(session: AsyncSession) -> ColumnElement[int]:
    """The part of the version of an order that its payment has; see `shop.orders.versions`."""
    reader = session.info.get(PAYMENTS)
    return reader.versions() if isinstance(reader, Payments) else literal(0)
