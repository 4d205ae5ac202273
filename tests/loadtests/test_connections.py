"""The bench at few and many connections: groups, growth of the append-only file, system calls, and what is shown."""

import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from loadtests.bench.__main__ import busy_notes
from loadtests.bench.accounting import io_calls
from loadtests.bench.connections import (
    Played,
    SystemCalls,
    Usage,
    aof_bytes_per_order,
    system_calls_per_order,
)
from loadtests.bench.group_sizes import GroupCounts, counts_of, sizes_between
from loadtests.bench.report import markdown, print_results
from loadtests.bench.results import judge, ratios_of
from tests.loadtests.bench_runs import a_round, a_run

PAGE = """# TYPE shop_reserve_batch_requests histogram
shop_reserve_batch_requests_bucket{le="1.0"} 10.0
shop_reserve_batch_requests_bucket{le="16.0"} 30.0
shop_reserve_batch_requests_bucket{le="32.0"} 110.0
shop_reserve_batch_requests_bucket{le="+Inf"} 110.0
shop_reserve_batch_requests_count 110.0
shop_reserve_batch_requests_sum 2010.0
"""
BOUNDS = (1.0, 16.0, 32.0, float("inf"))
IDLE = Usage(aof_bytes=1_000, aof_rewrites=2, aof_rewriting=False, api_calls=100, redis_calls=10)


def played(*, orders: int = 100, before: Usage = IDLE, **after: Any) -> Played:
    """A round with so many orders, and what the servers had done after it."""
    return Played(a_round(orders), before, replace(before, **after))


def test_a_group_is_counted_between_two_readings_of_the_page() -> None:
    before, after = GroupCounts(10.0, 10.0, dict.fromkeys(BOUNDS, 10.0)), counts_of(PAGE)

    groups = sizes_between(before, after)

    assert groups
    assert groups.mean == 20.0
    assert groups.shares == {"16": 0.2, "32": 0.8}
    assert (groups.p10, groups.p50, groups.p90) == (9.0, 22.6, 30.1)


def test_the_size_of_the_largest_groups_is_not_made_up() -> None:
    groups = sizes_between(None, GroupCounts(3_000.0, 10.0, {256.0: 1.0, float("inf"): 10.0}))

    assert groups
    assert (groups.p50, groups.p90) == (256.0, 256.0)


def test_without_a_call_or_a_page_there_are_no_groups() -> None:
    assert counts_of("# nothing\n") is None
    assert sizes_between(None, None) is None
    assert sizes_between(counts_of(PAGE), counts_of(PAGE)) is None


def test_the_growth_of_the_file_counts_only_while_nobody_rewrites_it() -> None:
    grown = played(aof_bytes=24_000)
    rewritten = played(aof_bytes=500, aof_rewrites=3)
    being_rewritten = played(before=replace(IDLE, aof_rewriting=True), aof_bytes=500)

    found = aof_bytes_per_order([rewritten, grown, being_rewritten])

    assert found
    assert (found.median, found.min, found.max) == (230.0, 230.0, 230.0)
    assert aof_bytes_per_order([rewritten, being_rewritten]) is None


def test_what_was_refused_is_no_order() -> None:
    round_ = played(aof_bytes=11_000)
    round_.round.statuses["503"] = 100  # as many as were accepted, so half of what was sent

    found = aof_bytes_per_order([round_])

    assert found
    assert found.median == 200.0


def test_system_calls_are_per_order_of_all_rounds() -> None:
    rounds = [played(orders=100, api_calls=350, redis_calls=20), played(orders=300, api_calls=250, redis_calls=40)]

    assert system_calls_per_order(rounds) == SystemCalls(1.0, 0.1)


def test_what_the_system_does_not_count_is_said_to_be_unknown() -> None:
    unknown = played(before=replace(IDLE, api_calls=None), redis_calls=60)

    assert system_calls_per_order([unknown]) == SystemCalls(None, 0.5)


def test_reads_and_writes_of_a_process_are_read_from_the_system() -> None:
    before = io_calls([os.getpid()])
    if before is None:
        pytest.skip("this kernel does not count the reads and writes of a process")

    with Path("/dev/zero").open("rb", buffering=0) as zeros, Path(os.devnull).open("wb", buffering=0) as nowhere:
        nowhere.writelines(zeros.read(1) for _ in range(50))

    after = io_calls([os.getpid()])
    assert after
    assert 100 <= after - before < 200


def test_a_bar_that_is_missed_at_64_connections_is_shown_as_missed() -> None:
    results = a_run()
    assert results.connections
    results.connections.levels[64].contenders["shop"] = results.connections.levels[1].contenders["shop"]

    judge(results)

    assert {each.name for each in results.bars if not each.ok} == {"orders_vs_bare_64", "cpu_vs_bare_64"}
    assert "| `cpu_vs_bare_64` |" in markdown(results)
    assert "10.00 (missed) | ≤ 2.6 |" in markdown(results)


def test_an_order_whose_bytes_could_not_be_counted_has_no_ratio() -> None:
    results = a_run()
    assert results.connections
    del results.connections.levels[64].aof_bytes["shop"]

    assert "aof_bytes_per_order" not in ratios_of(results)
    assert "| 0.5 |" not in markdown(results)


def test_each_level_is_shown_with_its_groups() -> None:
    results = a_run()
    judge(results)
    console = Console(record=True, width=200, file=io.StringIO())

    print_results(results, console)

    shown = console.export_text()
    assert "256 connections: groups of 16 on average, p10 4, p50 15.5, p90 30; calls with ≤ 16 60% · ≤ 32 40%" in shown
    assert "2.5+0.2" in shown
    assert "| 256 | 15,000 (20,000, 15,000) | 35.0 (20.0, 28.0) | 1.00 / 2.00 | 4 / 15.5 / 30 | 220 |" in markdown(
        results
    )


def test_a_run_of_this_part_alone_beside_other_work_says_so() -> None:
    results = a_run()
    assert results.connections
    results.purchases = None
    results.connections.levels[256].contenders["bare"].api_share = 0.47

    assert "47%" in "".join(busy_notes(results))
