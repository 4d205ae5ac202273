"""How many purchases of the shop shared a script call, from the histogram on its metrics page."""

import asyncio
import re
from dataclasses import dataclass

import msgspec

from loadtests.bench.settings import HOST
from loadtests.bench.testbed import Testbed

METRICS_SECONDS_MAX = 2.0
NAME = "shop_reserve_batch_requests"
SAMPLE = re.compile(
    rf'^{NAME}_(?:bucket\{{le="(?P<bound>[^"]+)"\}}|(?P<total>sum|count)) (?P<value>\S+)$', re.MULTILINE
)


@dataclass(frozen=True)
class GroupCounts:
    """The purchases and the script calls so far, and the calls with at most so many purchases, by that bound."""

    purchases: float
    calls: float
    calls_up_to: dict[float, float]


class GroupSizes(msgspec.Struct, frozen=True, kw_only=True):
    """How many purchases a call carried: the mean, and percentiles that are estimated from the buckets.

    `shares` has the part of the calls in each bucket by its upper bound, without the empty ones.
    """

    mean: float
    p10: float
    p50: float
    p90: float
    shares: dict[str, float]


async def read_groups(testbed: Testbed) -> GroupCounts | None:
    """What the shop has counted so far; None when its metrics page does not answer or has no group."""
    try:
        reader, writer = await asyncio.open_connection(HOST, testbed.settings.metrics_port)
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        async with asyncio.timeout(METRICS_SECONDS_MAX):
            page = await reader.read()
        writer.close()
    except (OSError, TimeoutError):
        return None
    return counts_of(page.decode())


def counts_of(page: str) -> GroupCounts | None:
    """The histogram of a metrics page."""
    samples = [match.groupdict() for match in SAMPLE.finditer(page)]
    totals = {each["total"]: float(each["value"]) for each in samples if each["total"]}
    buckets = {float(each["bound"]): float(each["value"]) for each in samples if each["bound"]}
    return GroupCounts(totals["sum"], totals["count"], buckets) if totals else None


def sizes_between(before: GroupCounts | None, after: GroupCounts | None) -> GroupSizes | None:
    """The groups of the calls between two readings; None when there was none."""
    if after is None:
        return None
    before = before or GroupCounts(0.0, 0.0, {})
    calls = after.calls - before.calls
    if calls <= 0:
        return None
    up_to = {bound: count - before.calls_up_to.get(bound, 0.0) for bound, count in sorted(after.calls_up_to.items())}
    shares, below = {}, 0.0
    for bound, count in up_to.items():
        if count > below:
            shares[f"{bound:g}"] = round((count - below) / calls, 3)
        below = count
    p10, p50, p90 = (round(_percentile(up_to, share * calls), 1) for share in (0.1, 0.5, 0.9))
    mean = round((after.purchases - before.purchases) / calls, 1)
    return GroupSizes(mean=mean, p10=p10, p50=p50, p90=p90, shares=shares)


def _percentile(up_to: dict[float, float], rank: float) -> float:
    """The size of the call of this rank, on a straight line within its bucket; of the last bucket its lower bound.

    Sizes are whole, so a bucket begins one above the bound of the one before it.
    """
    lower, below = 0.0, 0.0
    for bound, count in up_to.items():
        if count >= rank:
            within = (rank - below) / (count - below)
            return lower if bound == float("inf") else lower + 1 + (bound - lower - 1) * within
        lower, below = bound, count
    return lower
