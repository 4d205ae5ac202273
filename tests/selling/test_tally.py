"""What the lane counts reaches the metrics, and refusals that took no time do not make purchases look quicker."""

from prometheus_client import REGISTRY

from shop.seckill.tally import Tally

ROUTE = "/v1/tally"


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_a_refusal_before_anything_is_begun_is_counted_and_not_timed() -> None:
    tally, outcome = Tally("POST", ROUTE), {"outcome": "tally_refused"}
    for seconds in (0.002, 0.3, None, None, None):
        tally.count(503, "tally_refused", seconds)

    tally.flush()
    tally.flush()

    of_route = {"method": "POST", "route": ROUTE}
    assert value("shop_purchases_total", **outcome) == 5
    assert value("shop_http_requests_total", **of_route, status="503") == 5
    assert value("shop_http_request_duration_seconds_count", **of_route) == 2
    assert value("shop_http_request_duration_seconds_sum", **of_route) == 0.302
