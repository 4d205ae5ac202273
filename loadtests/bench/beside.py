"""Buyers and payments beside a crowd that only reads: what the crowd takes from them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from loadtests.bench.crowds import POLLED_ORDERS, Ordered, asking, following, wishes
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
from loadtests.bench.rounds import Spread, Wish, per_second, play, spread
from loadtests.bench.sales import forget, open_sales
from loadtests.bench.testbed import Testbed

# Of what one process sells to a closed loop; the buyers are an open loop.
LOAD = 0.5
READ = "200"
CROWDS = ("nobody", "reads", "polls", "streams")


class Company(msgspec.Struct, kw_only=True):
    """Purchases beside a crowd; p99 is that of the accepted. Streams are told nothing meanwhile."""

    purchases_per_second: Spread
    p99_ms: Spread
    reads_per_second: Spread


class Beside(msgspec.Struct, kw_only=True):
    """Purchases at half of the capacity, by the crowd beside which they were made; payments beside nobody and reads."""

    offered_per_second: Spread
    crowds: dict[str, Company]
    payment_p99_ms: dict[str, Spread]


async def measure_beside(testbed: Testbed, size: Size, report: Report) -> Beside:
    """In each round the capacity first, then purchases beside each crowd in turn, and payments."""
    rounds, seconds = size.overload_rounds, size.overload_seconds
    sale_ids = await open_sales(testbed, units=UNITS, count=rounds)
    payments = int(2 * rounds * (seconds + 3) * PAYMENTS_PER_SECOND)
    ordered = await Ordered.some(testbed, units=UNITS, orders=POLLED_ORDERS + payments)
    buyers: dict[str, list[Round]] = {name: [] for name in CROWDS}
    readers: dict[str, list[Round]] = {name: [] for name in CROWDS}
    offered: list[float] = []
    for number, sale_id in enumerate(sale_ids):
        offered.append(LOAD * per_second(await play(testbed, Wish("shop", sale_id, seconds)), ACCEPTED))
        buying = Wish("shop", sale_id, seconds, OPEN_CONNECTIONS, rate=offered[-1])
        for name in CROWDS:
            async with _crowd(testbed, name, ordered, sale_id=sale_id, seconds=seconds) as found:
                buyers[name].append(await play(testbed, buying))
            readers[name] += found
            report(
                f"round {number + 1}/{rounds}  beside {name:8} {per_second(buyers[name][-1], ACCEPTED):8,.0f} of"
                f" {offered[-1]:,.0f} purchases/s  p99 {_p99(buyers[name][-1]):8,.1f} ms"
            )
    paid = await _payments(testbed, ordered, sale_ids[0], size, report)
    await forget(testbed, [*sale_ids, ordered.sale_id])
    return Beside(
        offered_per_second=spread(offered, 0),
        crowds={name: _company(buyers[name], readers[name]) for name in CROWDS},
        payment_p99_ms={name: spread([p99_of(each) for each in found]) for name, found in paid.items()},
    )


@asynccontextmanager
async def _crowd(
    testbed: Testbed, name: str, ordered: Ordered, *, sale_id: int, seconds: float
) -> AsyncIterator[list[Round]]:
    """A crowd for the time of the block, or nobody; the list has its round then, if it asks again and again."""
    wish = wishes(ordered, sale_id=sale_id, seconds=seconds).get(name)
    if wish is not None:
        async with asking(testbed, wish) as found:
            yield found
    elif name == "streams":
        async with following(testbed, ordered):
            yield []
    else:
        yield []


async def _payments(
    testbed: Testbed, ordered: Ordered, sale_id: int, size: Size, report: Report
) -> dict[str, list[list[float]]]:
    """What payments take, in milliseconds, beside nobody and beside readers in turn."""
    await want_payments(testbed, ordered.sale_id)
    unpaid = iter(await unpaid_orders(testbed, ordered.sale_id))
    paid: dict[str, list[list[float]]] = {"nobody": [], "reads": []}
    with paying_provider(testbed) as provider:
        for number in range(size.overload_rounds):
            for name, found in paid.items():
                async with _crowd(testbed, name, ordered, sale_id=sale_id, seconds=size.overload_seconds):
                    lasting = asyncio.create_task(asyncio.sleep(size.overload_seconds))
                    found.append(await payments_meanwhile(provider, unpaid, lasting))
            told = ", ".join(f"beside {name} {p99_of(found[-1]):.1f} ms" for name, found in paid.items())
            report(f"round {number + 1}/{size.overload_rounds}  p99 of payments: {told}")
    await require_paid(testbed, ordered.sale_id, sum(len(each) for found in paid.values() for each in found))
    return paid


def _company(buyers: list[Round], readers: list[Round]) -> Company:
    return Company(
        purchases_per_second=spread([per_second(each, ACCEPTED) for each in buyers], 0),
        p99_ms=spread([_p99(each) for each in buyers]),
        reads_per_second=spread([per_second(each, READ) for each in readers] or [0.0], 0),
    )


def _p99(found: Round) -> float:
    return found.latency_ms[ACCEPTED].p99 if ACCEPTED in found.latency_ms else float("inf")
