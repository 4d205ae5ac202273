"""The generator checked by one that is not ours: what wrk says is read, and compared."""

import pytest

from loadtests.bench.report import markdown
from loadtests.bench.results import ratios_of
from loadtests.bench.rounds import spread
from loadtests.bench.testbed import NotMeasured
from loadtests.bench.wrk import Wrk, WrkLevel, WrkRound, lines_of, result_of
from tests.loadtests.bench_runs import a_run


def a_level(shop_by_wrk: float) -> WrkLevel:
    """Ours says that the shop has half of what `bare` has."""
    return WrkLevel(
        own={"bare": spread([20_000]), "shop": spread([10_000])},
        wrk={"bare": spread([30_000]), "shop": spread([shop_by_wrk])},
    )


def test_two_generators_agree_within_15_percent() -> None:
    assert a_level(17_000).agree
    assert a_level(13_000).agree
    assert not a_level(17_500).agree
    assert not a_level(12_500).agree


def test_the_report_says_when_the_generators_differ() -> None:
    results = a_run()
    results.wrk = Wrk(levels={64: a_level(15_000), 256: a_level(12_000)})

    assert ratios_of(results)["orders_vs_bare_256_by_wrk"] == 0.4
    assert "At 64 connections shop / bare is 0.50 by our generator and 0.50 by wrk: they agree." in markdown(results)
    assert "0.40 by wrk: they differ by more than 15%." in markdown(results)


def test_without_wrk_one_line_says_so() -> None:
    assert lines_of(Wrk(levels={})) == ["Second generator: wrk is not there."]


def test_the_result_is_the_last_line_of_what_wrk_prints() -> None:
    found = result_of(b'Running 1s test\n\n{"requests":1100,"microseconds":500000,"refused":100,"lost":0}\n', b"")

    assert found == WrkRound(1_100, 500_000, 100, 0)
    assert found.per_second == 2_000


@pytest.mark.parametrize(
    "output",
    [
        b"unable to connect\n",
        b'{"requests":100,"microseconds":500000,"refused":0,"lost":1}\n',
        b'{"requests":100,"microseconds":500000,"refused":100,"lost":0}\n',
    ],
)
def test_a_round_in_which_wrk_failed_is_not_measured(output: bytes) -> None:
    with pytest.raises(NotMeasured, match="wrk"):
        result_of(output, b"")
