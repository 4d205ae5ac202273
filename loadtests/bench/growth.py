"""Growth: what one more order costs, and what each weighs in Redis, in a sale that has made many already."""

import msgspec

from loadtests.bench.plan import Size
from loadtests.bench.purchases import ACCEPTED, Report
from loadtests.bench.rounds import MICROSECONDS, Spread, Wish, play, spread
from loadtests.bench.sales import fill, forget, open_sales, until_drained
from loadtests.bench.testbed import Testbed

# A sale that a round of purchases would make much larger is used for one round only.
SMALL = 50_000
CHUNK = 100_000
# What the rounds of purchases may buy beyond the orders that are there.
SPARE_UNITS = 250_000


class GrownSale(msgspec.Struct, kw_only=True):
    """A sale with so many orders, drained. CPU is of API and Redis together, in microseconds per order."""

    orders: int
    redis_bytes_per_order: float
    cpu_us: Spread
    api_cpu_us: Spread
    redis_cpu_us: Spread


class Growth(msgspec.Struct, kw_only=True):
    """The sizes that were measured, the smallest first."""

    sales: list[GrownSale]
    seconds: float


async def measure_growth(testbed: Testbed, size: Size, report: Report) -> Growth:
    """Fill sales of all sizes and drain them; then, with an idle worker, rounds of purchases in each in turn."""
    testbed.start_worker()
    grown: dict[int, list[int]] = {}
    weights: dict[int, float] = {}
    for orders in size.growth_orders:
        grown[orders] = await open_sales(
            testbed, units=orders + SPARE_UNITS, count=size.growth_rounds if orders < SMALL else 1
        )
        weights[orders] = await _fill(testbed, grown[orders], orders)
        report(f"{orders:9,} orders in a sale: {weights[orders]:.0f} bytes of Redis each")
    await testbed.stop_worker()
    costs: dict[int, list[tuple[float, float]]] = {orders: [] for orders in grown}
    for number in range(size.growth_rounds):
        for orders, sale_ids in grown.items():
            found = await play(testbed, Wish("shop", sale_ids[number % len(sale_ids)], size.seconds))
            accepted = max(found.statuses.get(ACCEPTED, 0), 1)
            api, redis = (MICROSECONDS * found.cpu_seconds[name] / accepted for name in ("api", "redis"))
            costs[orders].append((api, redis))
            report(
                f"round {number + 1}/{size.growth_rounds}  at {orders:9,} orders"
                f"  {api:6.1f} + {redis:5.1f} µs per purchase"
            )
    await forget(testbed, [sale_id for sale_ids in grown.values() for sale_id in sale_ids])
    return Growth(
        seconds=size.seconds,
        sales=[
            GrownSale(
                orders=orders,
                redis_bytes_per_order=round(weights[orders], 1),
                cpu_us=spread([api + redis for api, redis in found]),
                api_cpu_us=spread([api for api, _ in found]),
                redis_cpu_us=spread([redis for _, redis in found]),
            )
            for orders, found in costs.items()
        ],
    )


async def _fill(testbed: Testbed, sale_ids: list[int], orders: int) -> float:
    """Make the orders and drain them; returns the bytes of Redis memory that each then takes."""
    await until_drained(testbed, sale_ids)
    before = await _used_memory(testbed)
    for sale_id in sale_ids:
        for start in range(0, orders, CHUNK):
            await fill(testbed, sale_id, min(CHUNK, orders - start))
            await until_drained(testbed, [sale_id])
    return (await _used_memory(testbed) - before) / (orders * len(sale_ids))


async def _used_memory(testbed: Testbed) -> int:
    """What Redis has in use for data, without the buffers of its clients and of its append-only file."""
    info = await testbed.redis.info("memory")
    return int(info["used_memory"]) - int(info.get("mem_clients_normal", 0)) - int(info.get("mem_aof_buffer", 0))
