"""Event streams opened by a crowd at once: who is refused, when each has its first event, and what one costs."""

import asyncio
from uuid import UUID

import msgspec

from loadtests.bench.accounting import cpu_seconds, rss_bytes
from loadtests.bench.cores import pinned
from loadtests.bench.plan import Size
from loadtests.bench.purchases import UNITS, Report
from loadtests.bench.requests import stream_requests
from loadtests.bench.rounds import MICROSECONDS
from loadtests.bench.sales import fill, forget, open_sales, order_ids, until_drained
from loadtests.bench.settings import HOST
from loadtests.bench.testbed import NotMeasured, Testbed
from loadtests.client.event_streams import EventStreams, Opened
from loadtests.client.http import Address

OPEN_SECONDS = 1.0
PATIENCE_SECONDS = 60.0
SETTLE_SECONDS = 1.0
KIB = 1024


class Streams(msgspec.Struct, kw_only=True):
    """So many streams, each of an order and an account of its own, opened within a second at one process.

    `seconds` is from the first connect until the last stream has its first event.
    """

    streams: int
    refused: int
    lost: int
    seconds: float
    p50_seconds: float
    kib_per_stream: float
    api_cpu_us: float


async def measure_streams(testbed: Testbed, size: Size, report: Report) -> Streams:
    """Let a crowd follow orders that are recorded. Raises NotMeasured when nobody has an event."""
    (sale,) = await open_sales(testbed, units=UNITS)
    testbed.start_worker()
    buyers = await fill(testbed, sale, size.streams)
    await until_drained(testbed, [sale])
    ids = await order_ids(testbed, sale, buyers, size.streams)
    await _restart_api(testbed)
    found = await _open(testbed, buyers, ids)
    await forget(testbed, [sale])
    report(
        f"{found.streams:,} streams  {found.refused + found.lost} refused or lost  {found.seconds:.2f} s"
        f"  {found.kib_per_stream:.1f} KiB and {found.api_cpu_us:.0f} µs each"
    )
    return found


async def _open(testbed: Testbed, buyers: str, ids: list[UUID]) -> Streams:
    pids = testbed.accounts("shop")["api"]
    shoppers = testbed.shoppers(len(ids), name=buyers)
    port = testbed.ports["shop"]
    streams = EventStreams(Address(HOST, port), stream_requests(shoppers, host=HOST, port=port, order_ids=ids))
    rss, cpu, began = rss_bytes(pids), cpu_seconds(pids), asyncio.get_running_loop().time()
    try:
        opened = await asyncio.to_thread(streams.open, within_seconds=OPEN_SECONDS, patience_seconds=PATIENCE_SECONDS)
        seconds = asyncio.get_running_loop().time() - began
        used = cpu_seconds(pids) - cpu
        await asyncio.sleep(SETTLE_SECONDS)
        return _measured(opened, len(ids), seconds=seconds, cpu=used, rss=rss_bytes(pids) - rss)
    finally:
        streams.close()


def _measured(opened: Opened, count: int, *, seconds: float, cpu: float, rss: int) -> Streams:
    waits = sorted(opened.first_event_seconds)
    if not waits:
        raise NotMeasured(f"no stream was opened: {dict(opened.refused)}, {opened.lost} lost")
    return Streams(
        streams=count,
        refused=sum(opened.refused.values()),
        lost=opened.lost,
        seconds=round(seconds, 2),
        p50_seconds=round(waits[len(waits) // 2], 3),
        kib_per_stream=round(rss / len(waits) / KIB, 1),
        api_cpu_us=round(MICROSECONDS * cpu / len(waits), 1),
    )


async def _restart_api(testbed: Testbed) -> None:
    """What a process has had in use before would hide what the streams need."""
    await asyncio.to_thread(testbed.local.stop, "api")
    with pinned(testbed.cores.api):
        testbed.local.start("api", "api")
    await asyncio.to_thread(testbed.local.wait_until_ready)
