"""Purchases at few and at many connections: what a script call shared by many hides, and what the promises cost.

At each number of connections the contenders play in turn. With one connection a purchase is alone in an idle process.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from loadtests.bench.accounting import io_calls
from loadtests.bench.group_sizes import GroupSizes, read_groups, sizes_between
from loadtests.bench.messages import Round
from loadtests.bench.plan import Size
from loadtests.bench.purchases import ACCEPTED, BASELINE_SALE, UNITS, Report, start_baselines
from loadtests.bench.rounds import Spread, Summary, Wish, kept, per_second, play, spread, summarize, throttled
from loadtests.bench.sales import forget, open_sales
from loadtests.bench.testbed import Testbed

CONNECTIONS_ORDER = ("bare", "asgi_best", "shop")
ALONE = 1
# Some hundreds of purchases, one after the other.
ALONE_SECONDS = 0.4


class SystemCalls(msgspec.Struct, frozen=True):
    """System calls per order that read or write, of the API and of Redis; None where they are not counted."""

    api: float | None
    redis: float | None


class Level(msgspec.Struct, kw_only=True):
    """The contenders at one number of connections.

    `groups` are those of the shop. `aof_bytes` is what an order added to the append-only file; a round in which the
    file was rewritten says nothing, and a contender without any other is not in it.
    """

    contenders: dict[str, Summary]
    groups: GroupSizes | None
    aof_bytes: dict[str, Spread]
    system_calls: dict[str, SystemCalls]
    dropped_rounds: int


class ByConnections(msgspec.Struct, kw_only=True):
    """The levels by their number of connections."""

    seconds: float
    levels: dict[int, Level]


@dataclass(frozen=True)
class Usage:
    """What the servers and the API under test have done so far."""

    aof_bytes: int
    aof_rewrites: int
    aof_rewriting: bool
    api_calls: int | None
    redis_calls: int | None


@dataclass(frozen=True)
class Played:
    """A round, and the usage before and after it."""

    round: Round
    before: Usage
    after: Usage

    @property
    def orders(self) -> float:
        """Orders of the whole round, its warm-up included; the counted window tells which part was accepted."""
        answers = sum(self.round.statuses.values())
        return self.round.sent * self.round.statuses.get(ACCEPTED, 0) / answers if answers else 0.0


async def measure_connections(testbed: Testbed, size: Size, report: Report) -> ByConnections:
    """Play the rounds of each level in turn, and one more of `bare`; every level has a sale of its own."""
    sale_ids = await open_sales(testbed, units=UNITS, count=len(size.levels))
    await start_baselines(testbed, sale_ids[0], CONNECTIONS_ORDER[:-1])
    await testbed.stop_worker()
    levels = {}
    for connections, sale_id in zip(size.levels, sale_ids, strict=True):
        levels[connections] = await _measure_level(testbed, size, connections, sale_id, report)
        await forget(testbed, [sale_id])
        await testbed.redis.unlink(*(f"asgi_best:{{{BASELINE_SALE}}}:{name}" for name in ("stock", "buyers")))
    return ByConnections(seconds=size.level_seconds, levels=levels)


async def _measure_level(testbed: Testbed, size: Size, connections: int, sale_id: int, report: Report) -> Level:
    seconds = min(size.level_seconds, ALONE_SECONDS) if connections == ALONE else size.level_seconds
    wishes = {
        name: Wish(name, sale_id if name == "shop" else BASELINE_SALE, seconds, connections)
        for name in CONNECTIONS_ORDER
    }
    rounds: dict[str, list[Played]] = {name: [] for name in wishes}
    before = await read_groups(testbed)
    for number in range(size.level_rounds):
        for name, wish in wishes.items():
            found = await _play(testbed, wish)
            rounds[name].append(found)
            rate = per_second(found.round, ACCEPTED)
            report(f"round {number + 1}/{size.level_rounds}  {connections:5,} {name:10} {rate:8,.0f} purchases/s")
    after = await read_groups(testbed)
    last = await play(testbed, wishes["bare"])
    dropped = throttled([per_second(each) for each in (*(each.round for each in rounds["bare"]), last)])
    aof_bytes = {name: aof_bytes_per_order(played) for name, played in rounds.items() if name != "bare"}
    return Level(
        contenders={
            name: summarize(kept([each.round for each in played], dropped), ACCEPTED, dropped=len(dropped))
            for name, played in rounds.items()
        },
        groups=sizes_between(before, after),
        aof_bytes={name: found for name, found in aof_bytes.items() if found},
        system_calls={name: system_calls_per_order(played) for name, played in rounds.items()},
        dropped_rounds=len(dropped),
    )


async def _play(testbed: Testbed, wish: Wish) -> Played:
    before = await _usage(testbed, wish.contender)
    found = await play(testbed, wish)
    return Played(found, before, await _usage(testbed, wish.contender))


async def _usage(testbed: Testbed, contender: str) -> Usage:
    persistence = await testbed.redis.info("persistence")
    accounts = testbed.accounts(contender)
    return Usage(
        aof_bytes=persistence["aof_current_size"],
        aof_rewrites=persistence["aof_rewrites"],
        aof_rewriting=bool(persistence["aof_rewrite_in_progress"]),
        api_calls=io_calls(accounts["api"]),
        redis_calls=io_calls(accounts["redis"]),
    )


def aof_bytes_per_order(played: Sequence[Played]) -> Spread | None:
    """What an order added to the append-only file, in the rounds in which it only grew; None without any."""
    found = [
        (each.after.aof_bytes - each.before.aof_bytes) / each.orders
        for each in played
        if each.orders and not each.before.aof_rewriting and each.after.aof_rewrites == each.before.aof_rewrites
    ]
    return spread(found, 1) if found else None


def system_calls_per_order(played: Sequence[Played]) -> SystemCalls:
    """Reads and writes of all rounds together, by their orders."""
    orders = sum(each.orders for each in played)
    return SystemCalls(
        _per_order([(each.before.api_calls, each.after.api_calls) for each in played], orders),
        _per_order([(each.before.redis_calls, each.after.redis_calls) for each in played], orders),
    )


def _per_order(counts: Sequence[tuple[int | None, int | None]], orders: float) -> float | None:
    made = 0
    for before, after in counts:
        if before is None or after is None:
            return None
        made += after - before
    return round(made / orders, 2) if orders else None
