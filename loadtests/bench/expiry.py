"""Expiry: how fast one worker puts the units of a crowd that did not pay back on sale, and what a payment notices."""

import asyncio
import time
from dataclasses import dataclass

import msgspec
from sqlalchemy import func, update

from loadtests.bench.accounting import cpu_seconds, family
from loadtests.bench.payments import (
    PAYMENTS_PER_SECOND,
    p99_of,
    paying_provider,
    payments_meanwhile,
    require_paid,
    unpaid_orders,
    want_payments,
)
from loadtests.bench.plan import Size
from loadtests.bench.purchases import UNITS, Report
from loadtests.bench.rounds import MICROSECONDS, Spread, spread
from loadtests.bench.sales import EPOCH, fill, forget, open_sales, row, until_drained
from loadtests.bench.testbed import NotMeasured, Testbed
from shop.ledger import client as ledger
from shop.orders.models import Order

EXPIRE_SECONDS_MAX = 120.0
WATCH_SECONDS = 0.1  # each look is a transaction of its own, on the server that is measured
IDLE_SECONDS = 5.0


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
    await want_payments(testbed, paying_sale)
    idle: list[list[float]] = []
    busy: list[list[float]] = []
    expired: list[_Expired] = []
    unpaid = iter(await unpaid_orders(testbed, paying_sale))
    with paying_provider(testbed) as provider:
        for number, sale_id in enumerate(sale_ids):
            await fill(testbed, sale_id, size.expiry_orders)
            await until_drained(testbed, [sale_id])
            idle.append(await payments_meanwhile(provider, unpaid, asyncio.create_task(asyncio.sleep(IDLE_SECONDS))))
            expiring = asyncio.create_task(_expire(testbed, sale_id))
            busy.append(await payments_meanwhile(provider, unpaid, expiring))
            expired.append(expiring.result())
            await forget(testbed, [sale_id])
            report(
                f"round {number + 1}/{size.expiry_rounds}  {expired[-1].per_second:8,.0f} expired/s"
                f"  payments p99 {p99_of(idle[-1]):6.1f} ms idle, {p99_of(busy[-1]):6.1f} ms meanwhile"
            )
    await require_paid(testbed, paying_sale, sum(map(len, idle + busy)))
    await forget(testbed, [paying_sale])
    return Expiry(
        orders=size.expiry_orders,
        payments=sum(map(len, busy)),
        expired_per_second=spread([each.per_second for each in expired], 0),
        idle_payment_p99_ms=spread([p99_of(each) for each in idle]),
        payment_p99_ms=spread([p99_of(each) for each in busy]),
        worker_cpu_us=spread([each.cpu_us["worker"] for each in expired]),
        postgres_cpu_us=spread([each.cpu_us["postgres"] for each in expired]),
        redis_cpu_us=spread([each.cpu_us["redis"] for each in expired]),
    )


def _payments_max(size: Size) -> int:
    return int(size.expiry_rounds * (IDLE_SECONDS + EXPIRE_SECONDS_MAX) * PAYMENTS_PER_SECOND)


async def _expire(testbed: Testbed, sale_id: int) -> _Expired:
    """Let all orders of a sale become due at once, and wait until every unit is back and that is recorded."""
    pids = {"worker": [testbed.worker_pid], "postgres": family(testbed.servers.postgres.pid),
            "redis": testbed.valkey_pids}  # fmt: skip
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
