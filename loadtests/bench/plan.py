"""How large a run of the benchmark is, and the bars that it is held against."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

CONNECTIONS = 256
# One is a purchase alone in an idle process. The append-only file is judged where groups are small.
LEVELS = (1, 16, 64, 256, 1_024)
AOF_LEVEL = 64
# A quick run that has taken so long after its first part is on a slow machine: one round of the others must do.
HURRY_AFTER_SECONDS = 80.0
PURCHASE_ORDER = ("bare", "textbook", "postgres_only", "shop")
# A round is dropped when the machine was throttled next to it: `bare` below this share of its median.
THROTTLED_BELOW = 0.7


@dataclass(frozen=True)
class Size:
    """The size of a run. Sizes are orders, times are seconds, levels are numbers of connections."""

    quick: bool
    rounds: int = 9
    seconds: float = 3.0
    answer_rounds: int = 7
    polled_orders: int = 20_000
    drain_rounds: int = 5
    drain_orders: int = 50_000
    single_orders: int = 2_000
    growth_orders: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    growth_rounds: int = 5
    expiry_orders: int = 100_000
    expiry_rounds: int = 3
    overload_rounds: int = 5
    overload_seconds: float = 4.0
    levels: tuple[int, ...] = LEVELS
    level_rounds: int = 5
    level_seconds: float = 2.0
    wrk_levels: tuple[int, ...] = (64, 256)
    wrk_rounds: int = 3
    wrk_seconds: float = 2.0
    streams: int = 10_000

    def changed(self, rounds: int | None, seconds: float | None, levels: Sequence[int] | None = None) -> "Size":
        """The same size with other rounds, of every part, and at other numbers of connections."""
        size = replace(self, levels=tuple(levels)) if levels else self
        if rounds:
            size = replace(
                size,
                rounds=rounds,
                answer_rounds=rounds,
                drain_rounds=rounds,
                growth_rounds=rounds,
                expiry_rounds=rounds,
                overload_rounds=rounds,
                level_rounds=rounds,
                wrk_rounds=rounds,
            )
        if seconds:
            size = replace(size, seconds=seconds, overload_seconds=seconds, level_seconds=seconds, wrk_seconds=seconds)
        return size


FULL = Size(quick=False)
QUICK = Size(
    quick=True,
    rounds=7,
    seconds=1.0,
    answer_rounds=7,
    drain_rounds=3,
    drain_orders=15_000,
    single_orders=500,
    growth_orders=(10_000, 100_000),
    growth_rounds=3,
    expiry_orders=20_000,
    expiry_rounds=2,
    overload_rounds=2,
    overload_seconds=1.5,
    level_rounds=3,
    level_seconds=0.5,
    wrk_rounds=2,
    wrk_seconds=1.0,
    streams=5_000,
)


@dataclass(frozen=True)
class Bar:
    """What a ratio has to reach, and what it is."""

    name: str
    meaning: str
    sense: Literal["at least", "at most"]
    bar: float

    def reached(self, value: float) -> bool:
        return value >= self.bar if self.sense == "at least" else value <= self.bar


BARS = (
    Bar("orders_vs_bare", "accepted purchases/s, shop / bare", "at least", 0.4),
    Bar("orders_vs_textbook", "accepted purchases/s, shop / textbook", "at least", 5),
    Bar("cpu_vs_bare", "CPU per accepted purchase, API + Redis, shop / bare", "at most", 3.0),
    Bar("orders_vs_bare_64", "accepted purchases/s at 64 connections, shop / bare", "at least", 0.45),
    Bar("orders_vs_bare_256", "the same at 256 connections", "at least", 0.7),
    Bar("cpu_vs_bare_64", "CPU per purchase, API + Redis, at 64 connections, shop / bare", "at most", 2.6),
    Bar("cpu_vs_bare_256", "the same at 256 connections", "at most", 1.8),
    Bar("alone_p50_vs_asgi_best", "p50 of one purchase alone in an idle process, shop / leanest ASGI", "at most", 1.5),
    Bar("aof_bytes_per_order", "bytes of the append-only file per order, at 64 connections", "at most", 230),
    Bar("sold_out_vs_bare", "sold-out answers/s / bare answers/s", "at least", 0.6),
    Bar("sale_page_vs_bare", "answers/s, the page of a sale / bare", "at least", 1.0),
    Bar("product_vs_bare", "answers/s, a product / bare", "at least", 1.0),
    Bar("page_304_vs_bare", "answers/s, a page that the reader has already / bare", "at least", 1.1),
    Bar("order_poll_vs_bare", "answers/s, polls each of another order / bare", "at least", 0.35),
    Bar("order_poll_304_vs_bare", "answers/s, polls of states that are known / bare", "at least", 0.5),
    Bar("order_poll_cpu", "CPU per poll, API + Postgres / per purchase, API + Redis", "at most", 3.0),
    Bar("streams_refused", "event streams opened within a second at one process: refused or lost", "at most", 0),
    Bar("streams_seconds", "seconds until each of them has its first event", "at most", 10),
    Bar("streams_kib", "KiB of memory of the process for each of them", "at most", 40),
    Bar("stampede_loads", "loads of an expired key, 5,000 readers at once, 4 processes", "at most", 2),
    Bar("cold_products_served", "5,000 readers of 2,000 cold products: share that is answered", "at least", 1.0),
    Bar("penetration_db_qps", "questions/s to Postgres in a flood of made-up ids", "at most", 50),
    Bar("penetration_cold_p99_ms", "p99 of a cold product beside that flood", "at most", 100),
    Bar("stale_after_commit_ms", "p99 until every process shows a committed change", "at most", 200),
    Bar("drain_vs_copy", "orders/s drained / orders/s by COPY of the same rows", "at least", 0.75),
    Bar("drain_vs_single", "orders/s drained / orders/s with one transaction each", "at least", 10),
    Bar("growth_cpu", "CPU per order in the largest sale / in a sale of 10 k orders", "at most", 1.15),
    Bar("redis_bytes_per_order", "bytes of Redis memory per order, after the drain", "at most", 200),
    Bar("expire_per_second", "due orders/s whose units one worker puts back on sale, recorded", "at least", 3_334),
    Bar("payment_p99_ratio", "p99 of a payment while orders expire / while none do", "at most", 3),
    Bar("overload_goodput", "goodput at 20× the connections / peak", "at least", 0.9),
    Bar("overload_goodput_2x", "goodput, open loop at 2× the capacity / peak", "at least", 0.6),
    Bar("overload_p99", "p99 of the accepted, open loop at 2× / at 0.5×", "at most", 8),
    Bar("buy_while_draining", "purchases/s while the worker records them / while it is frozen", "at least", 0.75),
    Bar("recorded_while_draining", "share of these orders that is recorded when the round ends", "at least", 0.6),
    Bar("buy_beside_reads", "purchases/s at half of the capacity beside 500 readers / alone", "at least", 0.8),
    Bar("buy_beside_polls", "the same beside 500 pollers of orders", "at least", 0.8),
    Bar("buy_beside_streams", "the same beside 2,000 event streams", "at least", 0.8),
    Bar("buy_beside_reads_p99", "p99 of the accepted beside 500 readers / alone", "at most", 5),
    Bar("pay_beside_reads", "p99 of a payment beside 500 readers / alone", "at most", 3),
)
