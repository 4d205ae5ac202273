"""Overload: more than the shop can sell, at a rate that does not relent, and with twenty times the connections."""

from statistics import median

import msgspec

from loadtests.bench.messages import Round
from loadtests.bench.plan import CONNECTIONS, Size
from loadtests.bench.purchases import ACCEPTED, UNITS, Report
from loadtests.bench.rounds import Spread, Wish, per_second, play, spread
from loadtests.bench.sales import EPOCH, forget, open_sales, row, until_drained
from loadtests.bench.testbed import NotMeasured, Testbed
from shop.ledger import client as ledger

# Enough that the queue is in the shop, where it is to be refused, and not in the generator.
OPEN_CONNECTIONS = 2_048
MANY = 20


class Pressure(msgspec.Struct, kw_only=True):
    """The shop under one kind of load. Goodput is accepted purchases per second; p99 is that of the accepted."""

    offered_per_second: Spread | None
    connections: int
    goodput_per_second: Spread
    p99_ms: Spread
    refused: int
    lost: int
    unsent: int
    generator_share: float


class Overload(msgspec.Struct, kw_only=True):
    """The kinds of load by name: `peak` and `connections_20x` are closed loops, `open_…` are open ones."""

    seconds: float
    loads: dict[str, Pressure]


class WhileDraining(msgspec.Struct, kw_only=True):
    """Purchases while a worker records them, on the core that generator and servers share, and while it is frozen.

    `recorded_share` is the part of the orders of a round that was recorded when the round ended.
    """

    purchases_per_second: Spread
    p99_ms: Spread
    frozen_per_second: Spread
    recorded_share: Spread


async def measure_overload(testbed: Testbed, size: Size, report: Report) -> Overload:
    """In each cycle the capacity first, then the loads that are multiples of it."""
    sale_ids = await open_sales(testbed, units=UNITS, count=size.overload_rounds)
    await testbed.stop_worker()
    seconds = size.overload_seconds
    rounds: dict[str, list[Round]] = {}
    offered: dict[str, list[float]] = {}
    for number, sale_id in enumerate(sale_ids):
        peak = await play(testbed, Wish("shop", sale_id, seconds))
        capacity = per_second(peak, ACCEPTED)
        rounds.setdefault("peak", []).append(peak)
        wishes = {
            f"open_{share:g}x": Wish("shop", sale_id, seconds, OPEN_CONNECTIONS, rate=capacity * share)
            for share in (0.5, 1, 2)
        }
        wishes[f"connections_{MANY}x"] = Wish("shop", sale_id, seconds, CONNECTIONS * MANY)
        for name, wish in wishes.items():
            found = await play(testbed, wish)
            rounds.setdefault(name, []).append(found)
            if wish.rate is not None:
                offered.setdefault(name, []).append(wish.rate)
            report(
                f"cycle {number + 1}/{size.overload_rounds}  {name:16} {per_second(found, ACCEPTED):8,.0f} accepted/s"
                f"  p99 {_p99(found):8,.1f} ms  {found.statuses}"
            )
    await forget(testbed, sale_ids)
    return Overload(
        seconds=seconds, loads={name: _pressure(found, offered.get(name)) for name, found in rounds.items()}
    )


def _pressure(rounds: list[Round], offered: list[float] | None) -> Pressure:
    """What several rounds of one kind come to. Raises NotMeasured when nothing was accepted in any."""
    measured = [_p99(each) for each in rounds if ACCEPTED in each.latency_ms]
    if not measured:
        raise NotMeasured(f"nothing was accepted: {[each.statuses for each in rounds]}")
    return Pressure(
        offered_per_second=spread(offered, 0) if offered else None,
        connections=max(each.connections for each in rounds),
        goodput_per_second=spread([per_second(each, ACCEPTED) for each in rounds], 0),
        p99_ms=spread(measured),
        refused=sum(sum(each.statuses.values()) - each.statuses.get(ACCEPTED, 0) for each in rounds),
        lost=sum(each.lost + each.unanswered for each in rounds),
        unsent=sum(each.unsent for each in rounds),
        generator_share=round(median(each.generator_share for each in rounds), 3),
    )


def _p99(found: Round) -> float:
    return found.latency_ms[ACCEPTED].p99 if ACCEPTED in found.latency_ms else float("nan")


async def measure_while_draining(testbed: Testbed, size: Size, report: Report) -> WhileDraining:
    """Purchases with the worker at work and without it, in turn; everything is recorded before each round."""
    (sale_id,) = await open_sales(testbed, units=UNITS)
    testbed.start_worker()
    wish = Wish("shop", sale_id, size.seconds)
    found, frozen, shares = [], [], []
    for number in range(size.drain_rounds):
        await until_drained(testbed, [sale_id])
        with testbed.worker_frozen():
            frozen.append(per_second(await play(testbed, wish), ACCEPTED))
        await until_drained(testbed, [sale_id])
        before = await _progress(testbed, sale_id)
        found.append(await play(testbed, wish))
        shares.append(recorded_share(before, await _progress(testbed, sale_id)))
        report(
            f"round {number + 1}/{size.drain_rounds}  {per_second(found[-1], ACCEPTED):8,.0f} purchases/s,"
            f" {shares[-1]:.0%} recorded; {frozen[-1]:8,.0f} while the worker is frozen"
        )
    await until_drained(testbed, [sale_id])
    await forget(testbed, [sale_id])
    return WhileDraining(
        purchases_per_second=spread([per_second(each, ACCEPTED) for each in found], 0),
        p99_ms=spread([_p99(each) for each in found]),
        frozen_per_second=spread(frozen, 0),
        recorded_share=spread(shares, 3),
    )


async def _progress(testbed: Testbed, sale_id: int) -> tuple[int, int]:
    """What is recorded of a sale, and what its ledger has. Raises NotMeasured without a ledger."""
    sale, state = await row(testbed, sale_id), await ledger.read_state(testbed.redis, sale_id, EPOCH)
    if state is None:
        raise NotMeasured(f"sale {sale_id} has no ledger")
    return sale.watermark, state.seq


def recorded_share(before: tuple[int, int], after: tuple[int, int]) -> float:
    """The part of what the ledger got between two moments that was recorded between them."""
    recorded, made = after[0] - before[0], after[1] - before[1]
    if made <= 0:
        raise NotMeasured("the ledger got no order")
    return recorded / made
