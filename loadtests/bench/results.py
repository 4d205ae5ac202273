"""What a run of the benchmark found: its parts, and the ratios that are held against the bars."""

import msgspec

from loadtests.bench.answers import Answers
from loadtests.bench.beside import Beside
from loadtests.bench.catalogue import Catalogue
from loadtests.bench.connections import ALONE, ByConnections
from loadtests.bench.drain import Drain
from loadtests.bench.expiry import Expiry
from loadtests.bench.growth import Growth
from loadtests.bench.machine import Machine
from loadtests.bench.overload import MANY, Overload, WhileDraining
from loadtests.bench.pages import Pages
from loadtests.bench.plan import AOF_LEVEL, BARS
from loadtests.bench.polls import OrderPolls
from loadtests.bench.purchases import Purchases
from loadtests.bench.streams import Streams
from loadtests.bench.wrk import Wrk


class Verdict(msgspec.Struct, kw_only=True):
    """A ratio against its bar."""

    name: str
    meaning: str
    sense: str
    bar: float
    value: float
    ok: bool


class Results(msgspec.Struct, kw_only=True):
    """A run. A part that was not asked for is None; `failures` says which could not be measured, and why."""

    at: str
    quick: bool
    seconds: float
    machine: Machine
    notes: list[str] = []
    ratios: dict[str, float] = {}
    bars: list[Verdict] = []
    purchases: Purchases | None = None
    answers: Answers | None = None
    pages: Pages | None = None
    polls: OrderPolls | None = None
    streams: Streams | None = None
    catalogue: Catalogue | None = None
    drain: Drain | None = None
    growth: Growth | None = None
    expiry: Expiry | None = None
    overload: Overload | None = None
    beside: Beside | None = None
    connections: ByConnections | None = None
    wrk: Wrk | None = None
    while_draining: WhileDraining | None = None
    failures: dict[str, str] = {}


def judge(results: Results) -> None:
    """Compute the ratios of the parts that were measured, and hold them against the bars."""
    results.ratios = ratios_of(results)
    results.bars = [
        Verdict(
            name=bar.name,
            meaning=bar.meaning,
            sense=bar.sense,
            bar=bar.bar,
            value=results.ratios[bar.name],
            ok=bar.reached(results.ratios[bar.name]),
        )
        for bar in BARS
        if bar.name in results.ratios
    ]


def ratios_of(results: Results) -> dict[str, float]:
    """The ratios of the parts that were measured, by the names of the bars; each is a median or a quotient of two."""
    found: dict[str, float] = {}
    if results.purchases:
        found |= _of_purchases(results.purchases)
    if results.connections:
        found |= _of_connections(results.connections)
    for connections, level in results.wrk.levels.items() if results.wrk else ():
        found[f"orders_vs_bare_{connections}_by_wrk"] = level.wrk_ratio
    if results.answers:
        found["sold_out_vs_bare"] = results.answers.sold_out.per_second.median / results.answers.bare.per_second.median
    if pages := results.pages:
        bare = pages.bare.per_second.median
        found["sale_page_vs_bare"] = pages.sale.per_second.median / bare
        found["product_vs_bare"] = pages.product.per_second.median / bare
        found["page_304_vs_bare"] = pages.unchanged.per_second.median / bare
    if polls := results.polls:
        bare = polls.bare.per_second.median
        found["order_poll_vs_bare"] = polls.poll.per_second.median / bare
        found["order_poll_304_vs_bare"] = polls.unchanged.per_second.median / bare
        poll_cpu_us = polls.poll.api_cpu_us.median + polls.poll.postgres_cpu_us.median
        found["order_poll_cpu"] = poll_cpu_us / polls.purchase.cpu_us
    if streams := results.streams:
        found["streams_refused"] = streams.refused + streams.lost
        found["streams_seconds"] = streams.seconds
        found["streams_kib"] = streams.kib_per_stream
    if results.drain:
        drained = results.drain.drained_per_second.median
        found["drain_vs_copy"] = drained / results.drain.copied_per_second.median
        found["drain_vs_single"] = drained / results.drain.single_per_second.median
    if results.growth:
        small, large = results.growth.sales[0], results.growth.sales[-1]
        found["growth_cpu"] = large.cpu_us.median / small.cpu_us.median
        found["redis_bytes_per_order"] = large.redis_bytes_per_order
    if expiry := results.expiry:
        found["expire_per_second"] = expiry.expired_per_second.median
        found["payment_p99_ratio"] = expiry.payment_p99_ms.median / expiry.idle_payment_p99_ms.median
    if results.overload:
        found |= _of_overload(results.overload)
    if catalogue := results.catalogue:
        found["stampede_loads"] = catalogue.stampede_loads.max
        found["cold_products_served"] = catalogue.served_share.min
        found["penetration_db_qps"] = catalogue.penetration_per_second.max
        found["penetration_cold_p99_ms"] = catalogue.cold_p99_ms.median
        found["stale_after_commit_ms"] = catalogue.stale_ms.median
    if busy := results.while_draining:
        found["buy_while_draining"] = busy.purchases_per_second.median / busy.frozen_per_second.median
        found["recorded_while_draining"] = busy.recorded_share.median
    if results.beside:
        found |= _of_beside(results.beside)
    return {name: round(value, 3) for name, value in found.items()}


def _of_purchases(purchases: Purchases) -> dict[str, float]:
    shop, bare, textbook = (purchases.contenders[name] for name in ("shop", "bare", "textbook"))
    return {
        "orders_vs_bare": shop.per_second.median / bare.per_second.median,
        "orders_vs_textbook": shop.per_second.median / textbook.per_second.median,
        "cpu_vs_bare": shop.cpu_us / bare.api_cpu_us.median,
    }


def _of_connections(measured: ByConnections) -> dict[str, float]:
    """Each level beside `bare` and `asgi_best`, the price of the promises; of one connection only the p50."""
    found: dict[str, float] = {}
    for connections, level in measured.levels.items():
        shop, bare, best = (level.contenders[name] for name in ("shop", "bare", "asgi_best"))
        if connections == ALONE:
            found["alone_p50_vs_asgi_best"] = shop.p50_ms.median / best.p50_ms.median
            continue
        found[f"orders_vs_bare_{connections}"] = shop.per_second.median / bare.per_second.median
        found[f"cpu_vs_bare_{connections}"] = shop.cpu_us / bare.api_cpu_us.median
        found[f"cpu_vs_asgi_best_{connections}"] = shop.cpu_us / best.cpu_us
    judged = measured.levels.get(AOF_LEVEL)
    if judged and "shop" in judged.aof_bytes:
        found["aof_bytes_per_order"] = judged.aof_bytes["shop"].median
    return found


def _of_overload(overload: Overload) -> dict[str, float]:
    loads = overload.loads
    peak = loads["peak"].goodput_per_second.median
    return {
        "overload_goodput": loads[f"connections_{MANY}x"].goodput_per_second.median / peak,
        "overload_goodput_2x": loads["open_2x"].goodput_per_second.median / peak,
        "overload_p99": loads["open_2x"].p99_ms.median / loads["open_0.5x"].p99_ms.median,
    }


def _of_beside(beside: Beside) -> dict[str, float]:
    alone = beside.crowds["nobody"]
    found = {
        f"buy_beside_{name}": each.purchases_per_second.median / alone.purchases_per_second.median
        for name, each in beside.crowds.items()
        if each is not alone
    }
    found["buy_beside_reads_p99"] = beside.crowds["reads"].p99_ms.median / alone.p99_ms.median
    found["pay_beside_reads"] = beside.payment_p99_ms["reads"].median / beside.payment_p99_ms["nobody"].median
    return found
