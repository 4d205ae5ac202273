"""Rounds: how one is played, which of them count, and what several of them come to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import msgspec

from loadtests.bench.messages import OWN, Plan, Round
from loadtests.bench.plan import CONNECTIONS, THROTTLED_BELOW
from loadtests.bench.requests import PolledOrders
from loadtests.bench.testbed import NotMeasured, Testbed
from loadtests.client.purchases import purchase_path

WARMUP_SECONDS = 0.25
# Answers per second that a contender is trusted with before it was seen.
RATES_AT_FIRST = {
    "bare": 40_000.0,
    "asgi_best": 25_000.0,
    "textbook": 6_000.0,
    "postgres_only": 3_000.0,
    "shop": 20_000.0,
}
REQUESTS_SPARE = 1.4
MICROSECONDS = 1_000_000
MEGABYTE = 1024 * 1024


class Spread(msgspec.Struct, frozen=True):
    """The middle of several measurements, and how far they are apart."""

    median: float
    min: float
    max: float


class Summary(msgspec.Struct, kw_only=True):
    """Several rounds of one contender. CPU is in microseconds per answer of the status that counts, memory in MB.

    The shares are of one core: what the API got of its own, what the generator and each server used of the other, and
    what the processes took that should have been idle.
    """

    per_second: Spread
    p50_ms: Spread
    p99_ms: Spread
    api_cpu_us: Spread
    redis_cpu_us: Spread
    postgres_cpu_us: Spread
    api_rss_mb: float
    redis_rss_mb: float
    answer_bytes: int
    rounds: int
    dropped: int
    other_answers: int
    lost: int
    api_share: float
    generator_share: float
    generator_headroom: float
    servers_share: dict[str, float]
    idle_processes_share: float

    @property
    def cpu_us(self) -> float:
        """CPU of the API and of Redis together."""
        return self.api_cpu_us.median + self.redis_cpu_us.median


@dataclass(frozen=True)
class Wish:
    """One round to be played: a closed loop unless a rate is given. `shoppers` repeats the shoppers of this name.

    It buys, unless it has the path of a `page` to read, or orders that are `polled`; readers may know the tag.
    """

    contender: str
    sale_id: int
    seconds: float
    connections: int = CONNECTIONS
    rate: float | None = None
    shoppers: str | None = None
    count: int | None = None
    page: str | None = None
    known_tag: str | None = None
    polled: PolledOrders | None = None


async def play(testbed: Testbed, wish: Wish) -> Round:
    """Play a round against a contender."""
    found = await testbed.generator.play(plan_of(testbed, wish))
    # Few connections are answered more slowly than a contender can answer.
    if wish.rate is None and not wish.count and wish.connections >= CONNECTIONS:
        testbed.rates[wish.contender] = max(testbed.rates.get(wish.contender, 0.0), per_second(found))
    return found


def plan_of(testbed: Testbed, wish: Wish) -> Plan:
    """What the generator is told."""
    seconds = wish.seconds + WARMUP_SECONDS
    known = testbed.rates.get(wish.contender, RATES_AT_FIRST[wish.contender])
    count = wish.count or int((wish.rate or known * REQUESTS_SPARE) * seconds) + wish.connections
    return Plan(
        port=testbed.ports[wish.contender],
        path=wish.page or purchase_path(wish.sale_id),
        reads=wish.page is not None,
        known_tag=wish.known_tag,
        polled=wish.polled,
        shoppers=testbed.shoppers(count, name=wish.shoppers),
        connections=wish.connections,
        seconds=wish.seconds,
        rate=wish.rate,
        warmup_seconds=WARMUP_SECONDS,
        accounts=testbed.accounts(wish.contender),
    )


async def play_in_turn(
    testbed: Testbed, wishes: Mapping[str, Wish], count: int, report: Callable[[str], None]
) -> tuple[dict[str, list[Round]], set[int]]:
    """So many rounds of each wish in turn, and the numbers of those that do not count; one of the wishes is `bare`."""
    rounds: dict[str, list[Round]] = {name: [] for name in wishes}
    for number in range(count):
        for name, wish in wishes.items():
            found = await play(testbed, wish)
            rounds[name].append(found)
            report(f"round {number + 1}/{count}  {name:13} {per_second(found):8,.0f} answers/s")
    last = await play(testbed, wishes["bare"])
    return rounds, throttled([per_second(each) for each in (*rounds["bare"], last)])


def per_second(found: Round, status: str | None = None) -> float:
    """Answers per second, all of them or those with one status."""
    answers = sum(found.statuses.values()) if status is None else found.statuses.get(status, 0)
    return answers / found.seconds if found.seconds > 0 else 0.0


def throttled(bare: Sequence[float]) -> set[int]:
    """Which rounds do not count: round i lies between bare[i] and bare[i + 1], and the machine was slow at one of them.

    `bare` has the answers per second of one more round than there are to judge.
    """
    least = THROTTLED_BELOW * median(bare)
    return {number for number in range(len(bare) - 1) if min(bare[number], bare[number + 1]) < least}


def kept(rounds: Sequence[Round], dropped: set[int]) -> list[Round]:
    """The rounds that count. Raises NotMeasured when the machine left none."""
    found = [each for number, each in enumerate(rounds) if number not in dropped]
    if not found:
        raise NotMeasured(f"the machine was throttled in all of {len(rounds)} rounds")
    return found


def spread(values: Sequence[float], digits: int = 2) -> Spread:
    """The median of measurements with the least and the greatest."""
    return Spread(*(round(value, digits) for value in (median(values), min(values), max(values))))


def summarize(rounds: Sequence[Round], status: str, *, dropped: int = 0) -> Summary:
    """What the rounds of a contender come to; `status` says which answers count. Raises NotMeasured without any."""
    if any(status not in each.latency_ms for each in rounds):
        raise NotMeasured(f"no answer was {status}: {[each.statuses for each in rounds]}")

    def of(measure: Callable[[Round], float], digits: int = 2) -> Spread:
        return spread([measure(each) for each in rounds], digits)

    def cpu_us(name: str) -> Spread:
        return of(lambda each: MICROSECONDS * each.cpu_seconds.get(name, 0.0) / max(each.statuses.get(status, 0), 1))

    def share(name: str) -> float:
        return of(lambda each: each.cpu_seconds.get(name, 0.0) / each.seconds, 3).median

    return Summary(
        per_second=of(lambda each: per_second(each, status), 0),
        p50_ms=of(lambda each: each.latency_ms[status].p50),
        p99_ms=of(lambda each: each.latency_ms[status].p99),
        api_cpu_us=cpu_us("api"),
        redis_cpu_us=cpu_us("redis"),
        postgres_cpu_us=cpu_us("postgres"),
        api_rss_mb=max(each.rss_bytes.get("api", 0) for each in rounds) // MEGABYTE,
        redis_rss_mb=max(each.rss_bytes.get("redis", 0) for each in rounds) // MEGABYTE,
        answer_bytes=rounds[-1].answer_bytes,
        rounds=len(rounds),
        dropped=dropped,
        other_answers=sum(sum(each.statuses.values()) - each.statuses.get(status, 0) for each in rounds),
        lost=sum(each.lost + each.unanswered for each in rounds),
        api_share=share("api"),
        generator_share=share(OWN),
        generator_headroom=round(1 - share(OWN), 3),
        servers_share={name: share(name) for name in ("redis", "postgres", "worker")},
        idle_processes_share=share("others"),
    )
