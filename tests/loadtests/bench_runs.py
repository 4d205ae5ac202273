"""A run of the benchmark, made up: every ratio in it is easy to see."""

from loadtests.bench.answers import Answers
from loadtests.bench.beside import CROWDS, Beside, Company
from loadtests.bench.catalogue import Catalogue
from loadtests.bench.connections import ByConnections, Level, SystemCalls
from loadtests.bench.drain import Drain
from loadtests.bench.expiry import Expiry
from loadtests.bench.group_sizes import GroupSizes
from loadtests.bench.growth import GrownSale, Growth
from loadtests.bench.machine import Machine
from loadtests.bench.messages import OWN, Latency, Round
from loadtests.bench.overload import Overload, Pressure, WhileDraining
from loadtests.bench.pages import Pages
from loadtests.bench.polls import OrderPolls
from loadtests.bench.purchases import Purchases
from loadtests.bench.results import Results
from loadtests.bench.rounds import Summary, spread, summarize
from loadtests.bench.streams import Streams


def a_round(
    per_second: float, *, api_us: float = 50.0, redis_us: float = 5.0, status: str = "202", p50_ms: float = 1.0
) -> Round:
    """A round of one second."""
    answers = int(per_second)
    return Round(
        seconds=1.0,
        sent=answers,
        statuses={status: answers},
        latency_ms={status: Latency(p50_ms, 2.0, 3.0)},
        connections=256,
        lost=0,
        unsent=0,
        unanswered=0,
        answer_bytes=700,
        exhausted=False,
        cpu_seconds={OWN: 0.25, "api": answers * api_us / 1e6, "redis": answers * redis_us / 1e6},
        rss_bytes={"api": 50 * 1024 * 1024},
    )


def a_summary(per_second: float, *, api_us: float = 50.0, redis_us: float = 0.0) -> Summary:
    return summarize([a_round(per_second, api_us=api_us, redis_us=redis_us)], "202")


def a_company(goodput: float, p99: float) -> Company:
    return Company(purchases_per_second=spread([goodput]), p99_ms=spread([p99]), reads_per_second=spread([9_000]))


def a_pressure(goodput: float, p99: float) -> Pressure:
    return Pressure(
        offered_per_second=None,
        connections=256,
        goodput_per_second=spread([goodput]),
        p99_ms=spread([p99]),
        refused=0,
        lost=0,
        unsent=0,
        generator_share=0.2,
    )


def a_level(shop: float, *, shop_us: float, shop_ms: float = 1.0) -> Level:
    """20,000 bare answers/s at 20 µs; the leanest ASGI needs four fifths of the shop's CPU and a millisecond."""
    return Level(
        contenders={
            "bare": a_summary(20_000, api_us=20.0),
            "asgi_best": a_summary(15_000, api_us=shop_us * 0.8),
            "shop": summarize([a_round(shop, api_us=shop_us, redis_us=0.0, p50_ms=shop_ms)], "202"),
        },
        groups=GroupSizes(mean=16.0, p10=4.0, p50=15.5, p90=30.0, shares={"16": 0.6, "32": 0.4}),
        aof_bytes={"asgi_best": spread([60]), "shop": spread([220])},
        system_calls=dict.fromkeys(("bare", "asgi_best", "shop"), SystemCalls(2.5, 0.25)),
        dropped_rounds=0,
    )


def a_run() -> Results:
    """A run in which every ratio is easy to see."""
    costs = {"bare": (20_000, 20.0, 0.0), "textbook": (2_000, 270.0, 25.0), "postgres_only": (500, 900.0, 0.0)}
    contenders = {name: a_summary(rate, api_us=api, redis_us=redis) for name, (rate, api, redis) in costs.items()}
    contenders["shop"] = a_summary(10_000, api_us=45.0, redis_us=5.0)
    grown = {10_000: 50.0, 1_000_000: 55.0}
    loads = {
        "peak": a_pressure(10_000, 20),
        "open_0.5x": a_pressure(5_000, 10),
        "open_1x": a_pressure(10_000, 40),
        "open_2x": a_pressure(8_000, 50),
        "connections_20x": a_pressure(9_000, 400),
    }
    return Results(
        at="2026-11-21T12:00:00+00:00",
        quick=False,
        seconds=600.0,
        machine=Machine(
            processor="A <Processor> & Co", cores=2, apart=True, fsync_us=200.0, python="3.11", uvicorn="0.54",
            valkey="9.1", postgres="18.6",
        ),
        purchases=Purchases(connections=256, seconds=1.0, contenders=contenders, group_size=64.0, dropped_rounds=1),
        answers=Answers(
            bare=a_summary(20_000), sold_out=a_summary(14_000), replays=a_summary(11_000), dropped_rounds=0
        ),
        pages=Pages(
            bare=a_summary(20_000), sale=a_summary(24_000), product=a_summary(22_000), unchanged=a_summary(26_000),
            dropped_rounds=0,
        ),
        polls=OrderPolls(
            bare=a_summary(20_000), purchase=a_summary(10_000, api_us=100.0), poll=a_summary(9_000, api_us=150.0),
            unchanged=a_summary(12_000), dropped_rounds=0,
        ),
        streams=Streams(
            streams=10_000, refused=0, lost=0, seconds=5.0, p50_seconds=2.0, kib_per_stream=20.0, api_cpu_us=400.0
        ),
        catalogue=Catalogue(
            stampede_loads=spread([1, 2]), served_share=spread([1.0]), penetration_per_second=spread([25, 30]),
            cold_p99_ms=spread([60]), stale_ms=spread([150]),
        ),
        beside=Beside(
            offered_per_second=spread([5_000]),
            crowds={name: a_company(5_000, 10) if name == "nobody" else a_company(4_000, 20) for name in CROWDS},
            payment_p99_ms={"nobody": spread([10]), "reads": spread([20])},
        ),
        drain=Drain(
            orders=10_000,
            single_orders=100,
            drained_per_second=spread([30_000]),
            copied_per_second=spread([40_000]),
            single_per_second=spread([1_000]),
            worker_cpu_us=spread([30]),
        ),
        growth=Growth(
            seconds=1.0,
            sales=[
                GrownSale(
                    orders=orders,
                    redis_bytes_per_order=150.0,
                    cpu_us=spread([cost]),
                    api_cpu_us=spread([cost]),
                    redis_cpu_us=spread([0.0]),
                )
                for orders, cost in grown.items()
            ],
        ),
        expiry=Expiry(
            orders=100_000,
            payments=1_000,
            expired_per_second=spread([8_000]),
            idle_payment_p99_ms=spread([4]),
            payment_p99_ms=spread([10]),
            worker_cpu_us=spread([70]),
            postgres_cpu_us=spread([60]),
            redis_cpu_us=spread([30]),
        ),
        connections=ByConnections(
            seconds=1.0,
            levels={
                1: a_level(1_000, shop_us=200.0),
                64: a_level(10_000, shop_us=50.0),
                256: a_level(15_000, shop_us=35.0),
            },
        ),
        overload=Overload(seconds=1.0, loads=loads),
        while_draining=WhileDraining(
            purchases_per_second=spread([8_000]), p99_ms=spread([50]), frozen_per_second=spread([10_000]),
            recorded_share=spread([0.7]),
        ),
    )  # fmt: skip
