"""The benchmark: which rounds count, how the ratios come about, what is shown, and one small run of the real thing."""

import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import msgspec
import pytest

from loadtests.bench.__main__ import Part, busy_notes, notes_of, sales_needed
from loadtests.bench.accounting import cpu_seconds, family, rss_bytes
from loadtests.bench.chart import draw
from loadtests.bench.connections import CONNECTIONS_ORDER
from loadtests.bench.machine import fsync_us
from loadtests.bench.overload import recorded_share
from loadtests.bench.plan import BARS, FULL, LEVELS, PURCHASE_ORDER, QUICK
from loadtests.bench.report import markdown, write_readme
from loadtests.bench.results import Results, judge, ratios_of
from loadtests.bench.rounds import Spread, kept, summarize, throttled
from loadtests.bench.testbed import NotMeasured
from tests.loadtests.bench_runs import a_round, a_run, a_summary
from tests.source_tree import ROOT


def test_a_round_is_dropped_when_bare_was_slow_before_or_after_it() -> None:
    assert throttled([100, 100, 60, 100, 100]) == {1, 2}
    assert throttled([60, 100, 100, 100]) == {0}
    assert throttled([100, 100, 100, 60]) == {2}


def test_a_round_is_kept_while_bare_is_near_its_median() -> None:
    assert throttled([100, 71, 100, 130, 100]) == set()


def test_the_rounds_that_are_left_are_counted_without_the_dropped_ones() -> None:
    rounds = [a_round(100), a_round(10), a_round(110)]

    left = kept(rounds, {1})

    assert summarize(left, "202", dropped=1).per_second == Spread(105, 100, 110)
    assert summarize(left, "202", dropped=1).dropped == 1


def test_a_machine_that_leaves_no_round_is_not_measured() -> None:
    with pytest.raises(NotMeasured):
        kept([a_round(100)], {0})


def test_a_contender_that_never_gave_the_answer_is_not_measured() -> None:
    with pytest.raises(NotMeasured, match="503"):
        summarize([a_round(100, status="503")], "202")


def test_cpu_is_counted_per_answer_that_counts() -> None:
    found = a_round(1_000, api_us=50, redis_us=5)
    found.statuses["503"] = 500

    summary = summarize([found], "202")

    assert summary.api_cpu_us.median == pytest.approx(50)
    assert summary.cpu_us == pytest.approx(55)
    assert summary.other_answers == 500


def test_the_generator_shows_its_headroom() -> None:
    summary = a_summary(1_000)

    assert (summary.generator_share, summary.generator_headroom) == (0.25, 0.75)


def test_every_ratio_is_a_median_or_a_quotient_of_two() -> None:
    assert ratios_of(a_run()) == {
        "orders_vs_bare": 0.5,
        "orders_vs_textbook": 5.0,
        "cpu_vs_bare": 2.5,
        "orders_vs_bare_64": 0.5,
        "cpu_vs_bare_64": 2.5,
        "cpu_vs_asgi_best_64": 1.25,
        "orders_vs_bare_256": 0.75,
        "cpu_vs_bare_256": 1.75,
        "cpu_vs_asgi_best_256": 1.25,
        "aof_bytes_per_order": 220.0,
        "alone_p50_vs_asgi_best": 1.0,
        "sold_out_vs_bare": 0.7,
        "sale_page_vs_bare": 1.2,
        "product_vs_bare": 1.1,
        "page_304_vs_bare": 1.3,
        "order_poll_vs_bare": 0.45,
        "order_poll_304_vs_bare": 0.6,
        "order_poll_cpu": 1.5,
        "streams_refused": 0.0,
        "streams_seconds": 5.0,
        "streams_kib": 20.0,
        "stampede_loads": 2.0,
        "cold_products_served": 1.0,
        "penetration_db_qps": 30.0,
        "penetration_cold_p99_ms": 60.0,
        "stale_after_commit_ms": 150.0,
        "drain_vs_copy": 0.75,
        "drain_vs_single": 30.0,
        "growth_cpu": 1.1,
        "redis_bytes_per_order": 150.0,
        "expire_per_second": 8_000.0,
        "payment_p99_ratio": 2.5,
        "overload_goodput": 0.9,
        "overload_goodput_2x": 0.8,
        "overload_p99": 5.0,
        "buy_while_draining": 0.8,
        "recorded_while_draining": 0.7,
        "buy_beside_reads": 0.8,
        "buy_beside_polls": 0.8,
        "buy_beside_streams": 0.8,
        "buy_beside_reads_p99": 2.0,
        "pay_beside_reads": 2.0,
    }


def test_every_bar_is_judged_and_a_missed_one_is_named() -> None:
    results = a_run()
    assert results.purchases
    results.purchases.contenders["shop"] = a_summary(7_000, api_us=45.0, redis_us=5.0)

    judge(results)

    assert [verdict.name for verdict in results.bars] == [bar.name for bar in BARS]
    assert [verdict.name for verdict in results.bars if not verdict.ok] == ["orders_vs_bare", "orders_vs_textbook"]


def test_a_part_that_was_not_measured_has_no_ratio() -> None:
    results = a_run()
    results.overload = results.drain = None

    judge(results)

    assert {"overload_p99", "drain_vs_copy"}.isdisjoint(results.ratios)
    assert len(results.bars) == len(BARS) - 5


def test_results_survive_their_file() -> None:
    results = a_run()
    judge(results)

    assert msgspec.json.decode(msgspec.json.encode(results), type=Results) == results


def test_a_quick_run_says_how_far_growth_went_and_how_many_orders_expired() -> None:
    (note,) = notes_of(QUICK, apart=True)
    assert "growth only to 100,000 orders" in note
    assert "20,000 orders expire instead of 100,000" in note
    assert notes_of(FULL, apart=True) == []
    assert "one core" in "".join(notes_of(FULL, apart=False))


def test_a_run_beside_other_work_says_so() -> None:
    results = a_run()
    assert results.purchases
    bare = results.purchases.contenders["bare"]
    bare.api_share = 0.99
    assert busy_notes(results) == []

    bare.api_share = 0.47

    assert "47%" in "".join(busy_notes(results))


def test_there_are_at_least_seven_rounds_also_in_a_quick_run() -> None:
    assert min(FULL.rounds, QUICK.rounds) >= 7


def test_only_parts_with_an_idle_worker_have_their_sales_prepared() -> None:
    assert sales_needed(QUICK, [Part.DRAIN, Part.GROWTH]) == []
    assert len(sales_needed(QUICK, list(Part))) == QUICK.rounds + QUICK.overload_rounds + len(LEVELS) + 5


def test_what_was_recorded_before_a_round_is_not_in_its_share() -> None:
    assert recorded_share((1_000, 1_000), (1_600, 2_000)) == 0.6
    with pytest.raises(NotMeasured):
        recorded_share((1_000, 1_000), (1_000, 1_000))


def test_the_chart_is_well_formed_and_names_every_contender() -> None:
    results = a_run()
    assert results.purchases

    drawn = ElementTree.fromstring(draw(results.purchases))  # noqa: S314 - our own

    texts = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("this shop") == texts.count("bare answer") == 2
    assert "10,000" in texts
    assert len(results.purchases.contenders) == len(PURCHASE_ORDER)


def test_no_bar_of_the_chart_leaves_it() -> None:
    results = a_run()
    assert results.purchases

    drawn = ElementTree.fromstring(draw(results.purchases))  # noqa: S314 - our own

    width = float(drawn.attrib["width"])
    for bar in drawn.iter("{http://www.w3.org/2000/svg}rect"):
        assert float(bar.attrib["x"]) + float(bar.attrib["width"]) < width - 60


def test_the_table_goes_between_the_markers_of_the_readme(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- bench -->\nof yesterday\n<!-- /bench -->\nafter\n")
    results = a_run()
    judge(results)

    assert write_readme(results, readme)

    text = readme.read_text()
    assert text.startswith("before\n<!-- bench -->\n| one process")
    assert text.endswith("<!-- /bench -->\nafter\n")
    assert "of yesterday" not in text
    assert all(f"`{bar.name}`" in text for bar in BARS)


def test_a_readme_without_markers_stays_as_it_is(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("nothing here\n")

    assert not write_readme(a_run(), readme)
    assert readme.read_text() == "nothing here\n"


def test_a_missed_bar_is_said_in_the_readme() -> None:
    results = a_run()
    assert results.growth
    results.growth.sales[-1].redis_bytes_per_order = 250.0
    judge(results)

    assert "| 250.00 (missed) | ≤ 200 |" in markdown(results)


def test_the_cpu_of_a_process_is_read_from_the_system() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            end = time.monotonic() + 10
            while cpu_seconds([busy.pid]) < 0.05 and time.monotonic() < end:
                pass
            assert cpu_seconds([busy.pid]) >= 0.05
            assert rss_bytes([busy.pid]) > 1_000_000
            assert busy.pid in family(os.getpid())
        finally:
            busy.kill()
    assert rss_bytes([busy.pid]) == 0


def test_the_cost_of_a_sync_is_measured_and_leaves_nothing_behind(tmp_path: Path) -> None:
    assert fsync_us(tmp_path) > 0
    assert list(tmp_path.iterdir()) == []


def test_the_baselines_stay_small_enough_to_be_read() -> None:
    for name in ("bare", "textbook"):
        assert len((ROOT / "loadtests" / "baselines" / f"{name}.py").read_text().splitlines()) <= 60


def test_a_small_run_measures_the_shop_and_leaves_its_results(tmp_path: Path) -> None:
    """The smallest run of the real thing: its servers, the shop's processes, the generator."""
    command = [sys.executable, "-m", "loadtests.bench", "--quick", "--only", "answers", "--rounds", "1"]
    connections = ["--only", "connections", "--connections", "1", "--connections", "32"]
    done = subprocess.run(
        [*command, *connections, "--seconds", "0.2", "--json", "--output", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["failures"] == {}
    assert found["answers"]["sold_out"]["other_answers"] == 0
    assert found["answers"]["replays"]["lost"] == 0
    assert found["answers"]["bare"]["answer_bytes"] > 300
    assert 0 < found["ratios"]["sold_out_vs_bare"] < 5
    for level in found["connections"]["levels"].values():
        contenders = level["contenders"]
        assert {name: (each["other_answers"], each["lost"]) for name, each in contenders.items()} == dict.fromkeys(
            CONNECTIONS_ORDER, (0, 0)
        )
        assert 20 < level["aof_bytes"]["asgi_best"]["median"] < level["aof_bytes"]["shop"]["median"] < 1_500
    assert found["connections"]["levels"]["1"]["groups"]["mean"] == 1.0
    assert 1.0 < found["connections"]["levels"]["32"]["groups"]["mean"] <= 32.0
    assert found["machine"]["fsync_us"] > 0
    assert json.loads((tmp_path / "bench.json").read_text()) == found
