"""Buyers and payments beside a crowd that only reads: what the crowd takes from them."""

import asyncio

import msgspec

from loadtests.bench.messages import Round
from loadtests.bench.overload import OPEN_CONNECTIONS
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
from loadtests.bench.purchases import ACCEPTED, UNITS, Report
from loadtests.bench.rounds import Spread, Wish, per_second, plan_of, play, spread
from loadtests.bench.sales import fill, forget, open_sales, until_drained
from loadtests.bench.testbed import NotMeasured, Testbed

READERS = 500
# More than any machine reads in a second: they are one and the same request.
READS_PER_SECOND_MAX = 200_000
# The crowd reads before the buyers come and until after the last of them is answered.
BEFORE_SECONDS, AFTER_SECONDS = 0.5, 0.5
# Of what one process sells to a closed loop; the buyers are an open loop.
LOAD = 0.5
READ = "200"


class Beside(msgspec.Struct, kw_only=True):
    """Purchases at half of the capacity, and payments, alone and beside readers; p99 is that of the accepted."""

    offered_per_second: Spread
    alone_per_second: Spread
    alone_p99_ms: Spread
    beside_per_second: Spread
    beside_p99_ms: Spread
    reads_per_second: Spread
    alone_payment_p99_ms: Spread
    beside_payment_p99_ms: Spread


async def measure_beside(testbed: Testbed, size: Size, report: Report) -> Beside:
    """In each round: the capacity, purchases alone and beside readers, payments alone and beside readers."""
    rounds = size.overload_rounds
    sale_ids = await open_sales(testbed, units=UNITS, count=rounds)
    (paying_sale,) = await open_sales(testbed, units=UNITS)
    testbed.start_worker()
    await fill(testbed, paying_sale, int(4 * rounds * (size.overload_seconds + 2) * PAYMENTS_PER_SECOND))
    await until_drained(testbed, [paying_sale])
    await want_payments(testbed, paying_sale)
    await testbed.stop_worker()
    unpaid = iter(await unpaid_orders(testbed, paying_sale))
    offered, alone, beside, crowd = [], [], [], []
    paid_alone, paid_beside = [], []
    with paying_provider(testbed) as provider:
        for number, sale_id in enumerate(sale_ids):
            capacity = per_second(await play(testbed, Wish("shop", sale_id, size.overload_seconds)), ACCEPTED)
            buyers = Wish("shop", sale_id, size.overload_seconds, OPEN_CONNECTIONS, rate=LOAD * capacity)
            offered.append(LOAD * capacity)
            alone.append(await play(testbed, buyers))
            reading = asyncio.create_task(_read(testbed, sale_id, size.overload_seconds))
            await asyncio.sleep(BEFORE_SECONDS)
            beside.append(await play(testbed, buyers))
            crowd.append(await reading)
            quiet = asyncio.create_task(asyncio.sleep(size.overload_seconds))
            paid_alone.append(await payments_meanwhile(provider, unpaid, quiet))
            reading = asyncio.create_task(_read(testbed, sale_id, size.overload_seconds))
            paid_beside.append(await payments_meanwhile(provider, unpaid, reading))
            report(
                f"round {number + 1}/{rounds}  alone {_sold(alone[-1]):,.0f} purchases/s, p99 {_p99(alone[-1]):.1f} ms,"
                f" payments p99 {p99_of(paid_alone[-1]):.1f} ms; beside {_reads(crowd[-1]):,.0f} reads/s:"
                f" {_sold(beside[-1]):,.0f}, {_p99(beside[-1]):.1f} ms, {p99_of(paid_beside[-1]):.1f} ms"
            )
    await require_paid(testbed, paying_sale, sum(map(len, paid_alone + paid_beside)))
    await forget(testbed, [*sale_ids, paying_sale])
    return Beside(
        offered_per_second=spread(offered, 0),
        alone_per_second=spread([_sold(each) for each in alone], 0),
        alone_p99_ms=spread([_p99(each) for each in alone]),
        beside_per_second=spread([_sold(each) for each in beside], 0),
        beside_p99_ms=spread([_p99(each) for each in beside]),
        reads_per_second=spread([_reads(each) for each in crowd], 0),
        alone_payment_p99_ms=spread([p99_of(each) for each in paid_alone]),
        beside_payment_p99_ms=spread([p99_of(each) for each in paid_beside]),
    )


async def _read(testbed: Testbed, sale_id: int, seconds: float) -> Round:
    """Let the crowd read the sale's page as fast as it is answered. Raises NotMeasured if it ended early."""
    seconds += BEFORE_SECONDS + AFTER_SECONDS
    page, count = f"/v1/seckill/sales/{sale_id}", int(READS_PER_SECOND_MAX * seconds)
    wish = Wish("shop", sale_id, seconds, READERS, count=count, page=page)
    found = await testbed.crowd.play(plan_of(testbed, wish))
    if found.exhausted:
        raise NotMeasured(f"the readers had no more to read: {found.statuses}")
    return found


def _sold(found: Round) -> float:
    return per_second(found, ACCEPTED)


def _reads(found: Round) -> float:
    return per_second(found, READ)


def _p99(found: Round) -> float:
    return found.latency_ms[ACCEPTED].p99 if ACCEPTED in found.latency_ms else float("inf")
