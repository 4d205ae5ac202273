"""Payments of orders at a constant rate, and how long each took: captured money, told to the real route of the API."""

import asyncio
import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import NamedTuple, TypeVar
from uuid import UUID

import msgspec
from sqlalchemy import func, insert, literal, select
from standardwebhooks import Webhook

from loadtests.bench.settings import HOST
from loadtests.bench.testbed import NotMeasured, Testbed
from loadtests.client.http import Address, Pool
from shop.orders.models import Order, OrderStatus
from shop.payments.contract import Intent, ProviderEvent
from shop.payments.models import Payment, PaymentStatus

PAYMENTS_PER_SECOND = 50
PAYERS = 16
CONNECT_SECONDS_MAX = 5.0
PAYMENT_SECONDS_MAX = 30.0  # a slow payment is a figure, not a failure
MILLISECONDS = 1_000

Outcome = TypeVar("Outcome")


class Unpaid(NamedTuple):
    """An order that waits for its payment."""

    id: UUID
    total_minor: int
    currency: str


@dataclass
class Provider:
    """A payment provider that tells the shop of captured money: signed webhooks to the real route of the API.

    It shares a core with the servers, so what it costs itself is time that they and the payments wait.
    """

    address: Address
    pool: Pool
    signer: Webhook

    async def pay_one(self, order: Unpaid) -> bool:
        """Whether the shop has taken the money of this order. Raises HttpError."""
        body = msgspec.json.encode(_captured(order))
        at, event_id = datetime.now(UTC), f"evt_{order.id.hex}"
        headers = {
            "webhook-id": event_id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": self.signer.sign(event_id, at, body.decode()),
        }
        request = self.address.request("POST", "/v1/payments/webhook", headers=headers, body=body)
        answer = await self.pool.exchange(request, timeout_seconds=PAYMENT_SECONDS_MAX)
        return answer.status == HTTPStatus.NO_CONTENT


@contextmanager
def paying_provider(testbed: Testbed) -> Iterator[Provider]:
    """A provider with connections of its own, for the time of the block."""
    address = Address(HOST, testbed.ports["shop"])
    pool = Pool(address, size=PAYERS, connect_timeout_seconds=CONNECT_SECONDS_MAX)
    try:
        yield Provider(address, pool, Webhook(testbed.settings.webhook_secrets[0]))
    finally:
        pool.close()


def _captured(order: Unpaid) -> ProviderEvent:
    intent = Intent(
        id=f"pi_{order.id.hex}",
        order_id=str(order.id),
        amount_minor=order.total_minor,
        currency=order.currency,
        status="captured",
        captured_minor=order.total_minor,
        refunded_minor=0,
        refunds=(),
        attempts=1,
        pay_url="http://provider.example/pay",
        created_at=datetime.now(UTC),
    )
    return ProviderEvent(
        id=f"evt_{order.id.hex}", seq=1, type="payment.captured", created_at=intent.created_at, data=intent
    )


async def want_payments(testbed: Testbed, sale_id: int) -> None:
    """As if every buyer of the sale had started a payment."""
    columns = ["order_id", "status", "amount_minor", "currency"]
    rows = select(Order.id, literal(PaymentStatus.WANTED), Order.total_minor, Order.currency)
    async with testbed.database.transaction() as session:
        await session.execute(insert(Payment).from_select(columns, rows.where(Order.sale_id == sale_id)))


async def require_paid(testbed: Testbed, sale_id: int, payments: int) -> None:
    """Raises NotMeasured unless every payment has made an order paid."""
    async with testbed.database.transaction() as session:
        query = select(func.count()).where(Order.sale_id == sale_id, Order.status == OrderStatus.PAID)
        paid = (await session.execute(query)).scalar_one()
    if paid != payments:
        raise NotMeasured(f"{payments} payments were made, {paid} orders are paid")


async def unpaid_orders(testbed: Testbed, sale_id: int) -> list[Unpaid]:
    """Every order of the sale."""
    async with testbed.database.transaction() as session:
        query = select(Order.id, Order.total_minor, Order.currency).where(Order.sale_id == sale_id)
        return [Unpaid(*row) for row in await session.execute(query)]


async def payments_meanwhile(
    provider: Provider, unpaid: Iterator[Unpaid], meanwhile: "asyncio.Task[Outcome]"
) -> list[float]:
    """Pay at a constant rate until a task is over; what each payment took, in milliseconds. Raises what the task does.

    Nobody waits for the payment before: a slow one delays no other, and hides none.
    """
    paying: list[asyncio.Task[float]] = []
    began = time.perf_counter()
    try:
        for number in itertools.count():
            due = began + number / PAYMENTS_PER_SECOND
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            if meanwhile.done():
                break
            paying.append(asyncio.create_task(_timed(provider, next(unpaid), due)))
        await meanwhile
        return await asyncio.gather(*paying)
    finally:
        for task in (meanwhile, *paying):
            task.cancel()


async def _timed(provider: Provider, order: Unpaid, due: float) -> float:
    if not await provider.pay_one(order):
        raise NotMeasured(f"order {order.id} could not be paid")
    return (time.perf_counter() - due) * MILLISECONDS


def p99_of(found: list[float]) -> float:
    """The 99th percentile of at least one measurement."""
    return sorted(found)[int(0.99 * len(found))]
