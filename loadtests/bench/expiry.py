"""Expiry: how fast one worker puts the units of a crowd that did not pay back on sale, and what a payment notices."""

import asyncio
import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy import func, insert, literal, select, update
from standardwebhooks import Webhook

from loadtests.bench.accounting import cpu_seconds, family
from loadtests.bench.plan import Size
from loadtests.bench.purchases import UNITS, Report
from loadtests.bench.rounds import MICROSECONDS, Spread, spread
from loadtests.bench.sales import EPOCH, fill, forget, open_sales, row, until_drained
from loadtests.bench.settings import HOST
from loadtests.bench.testbed import NotMeasured, Testbed
from loadtests.client.http import Address, Pool
from shop.ledger import client as ledger
from shop.orders.models import Order, OrderStatus
from shop.payments.contract import Intent, ProviderEvent
from shop.payments.models import Payment, PaymentStatus

EXPIRE_SECONDS_MAX = 120.0
WATCH_SECONDS = 0.1  # each look is a transaction of its own, on the server that is measured
PAYMENTS_PER_SECOND = 50
PAYERS = 16
CONNECT_SECONDS_MAX = 5.0
IDLE_SECONDS = 5.0
PAYMENT_SECONDS_MAX = 30.0  # a slow payment is a figure, not a failure
MILLISECONDS = 1_000


class Expiry(msgspec.Struct, kw_only=True):
    """Orders per second from the moment they are due until their units are on sale again and all of it is recorded.

    A payment is measured from when it should have begun, in milliseconds. CPU is in microseconds per expired order.
    """

    orders: int
    payments: int
    expired_per_second: Spread
    idle_payment_p99_ms: Spread
    payment_p99_ms: Spread
    worker_cpu_us: Spread
    postgres_cpu_us: Spread
    redis_cpu_us: Spread


class Unpaid(NamedTuple):
    """An order that waits for its payment."""

    id: UUID
    total_minor: int
    currency: str


@dataclass
class _Expired:
    per_second: float
    cpu_us: dict[str, float]


async def measure_expiry(testbed: Testbed, size: Size, report: Report) -> Expiry:
    """In each round payments alone, and then payments of the same kind while the orders of another sale expire."""
    testbed.start_worker()
    sale_ids = await open_sales(testbed, units=size.expiry_orders + 1, count=size.expiry_rounds)
    (paying_sale,) = await open_sales(testbed, units=UNITS)
    await fill(testbed, paying_sale, _payments_max(size))
    await until_drained(testbed, [paying_sale])
    testbed.pin_worker(testbed.cores.api)
    await _want_payments(testbed, paying_sale)
    idle: list[list[float]] = []
    busy: list[list[float]] = []
    expired: list[_Expired] = []
    unpaid = iter(await _orders(testbed, paying_sale))
    with _provider(testbed) as provider:
        for number, sale_id in enumerate(sale_ids):
            await fill(testbed, sale_id, size.expiry_orders)
            await until_drained(testbed, [sale_id])
            idle.append(await _payments_meanwhile(provider, unpaid, asyncio.create_task(asyncio.sleep(IDLE_SECONDS))))
            expiring = asyncio.create_task(_expire(testbed, sale_id))
            busy.append(await _payments_meanwhile(provider, unpaid, expiring))
            expired.append(expiring.result())
            await forget(testbed, [sale_id])
            report(
                f"round {number + 1}/{size.expiry_rounds}  {expired[-1].per_second:8,.0f} expired/s"
                f"  payments p99 {_p99(idle[-1]):6.1f} ms idle, {_p99(busy[-1]):6.1f} ms meanwhile"
            )
    await _require_paid(testbed, paying_sale, sum(map(len, idle + busy)))
    await forget(testbed, [paying_sale])
    return Expiry(
        orders=size.expiry_orders,
        payments=sum(map(len, busy)),
        expired_per_second=spread([each.per_second for each in expired], 0),
        idle_payment_p99_ms=spread([_p99(each) for each in idle]),
        payment_p99_ms=spread([_p99(each) for each in busy]),
        worker_cpu_us=spread([each.cpu_us["worker"] for each in expired]),
        postgres_cpu_us=spread([each.cpu_us["postgres"] for each in expired]),
        redis_cpu_us=spread([each.cpu_us["redis"] for each in expired]),
    )


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
def _provider(testbed: Testbed) -> Iterator[Provider]:
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


async def _want_payments(testbed: Testbed, sale_id: int) -> None:
    """As if every buyer of the sale had started a payment."""
    columns = ["order_id", "status", "amount_minor", "currency"]
    rows = select(Order.id, literal(PaymentStatus.WANTED), Order.total_minor, Order.currency)
    async with testbed.database.transaction() as session:
        await session.execute(insert(Payment).from_select(columns, rows.where(Order.sale_id == sale_id)))


async def _require_paid(testbed: Testbed, sale_id: int, payments: int) -> None:
    """Raises NotMeasured unless every payment has made an order paid."""
    async with testbed.database.transaction() as session:
        query = select(func.count()).where(Order.sale_id == sale_id, Order.status == OrderStatus.PAID)
        paid = (await session.execute(query)).scalar_one()
    if paid != payments:
        raise NotMeasured(f"{payments} payments were made, {paid} orders are paid")


def _payments_max(size: Size) -> int:
    return int(size.expiry_rounds * (IDLE_SECONDS + EXPIRE_SECONDS_MAX) * PAYMENTS_PER_SECOND)


async def _orders(testbed: Testbed, sale_id: int) -> list[Unpaid]:
    async with testbed.database.transaction() as session:
        query = select(Order.id, Order.total_minor, Order.currency).where(Order.sale_id == sale_id)
        return [Unpaid(*row) for row in await session.execute(query)]


async def _payments_meanwhile(
    provider: Provider, unpaid: Iterator[Unpaid], meanwhile: "asyncio.Task[_Expired] | asyncio.Task[None]"
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


async def _expire(testbed: Testbed, sale_id: int) -> _Expired:
    """Let all orders of a sale become due at once, and wait until every unit is back and that is recorded."""
    pids = {"worker": [testbed.worker_pid], "postgres": family(testbed.servers.postgres.pid)}
    pids["redis"] = [testbed.servers.valkey.pid]
    units = (await row(testbed, sale_id)).units
    async with testbed.database.transaction() as session:
        await session.execute(update(Order).where(Order.sale_id == sale_id).values(expires_at=func.now()))
    used = {name: cpu_seconds(found) for name, found in pids.items()}
    began = time.perf_counter()
    while not await _is_back(testbed, sale_id, units):
        if time.perf_counter() - began > EXPIRE_SECONDS_MAX:
            raise NotMeasured(f"the orders of sale {sale_id} have not expired after {EXPIRE_SECONDS_MAX:g} s")
        await asyncio.sleep(WATCH_SECONDS)
    seconds = time.perf_counter() - began
    cpu_us = {name: MICROSECONDS * (cpu_seconds(found) - used[name]) / units for name, found in pids.items()}
    return _Expired(units / seconds, cpu_us)


async def _is_back(testbed: Testbed, sale_id: int, units: int) -> bool:
    sale, state = await row(testbed, sale_id), await ledger.read_state(testbed.redis, sale_id, EPOCH)
    return state is not None and (state.available, sale.units_taken, sale.watermark) == (units, 0, state.seq)


def _p99(found: list[float]) -> float:
    return sorted(found)[int(0.99 * len(found))]
