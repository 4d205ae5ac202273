"""The crowd against a scripted endpoint, which stands for the shop at the other end of the network."""

import asyncio
import json
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from loadtests.crowd.record import CrowdRecord, percentile, read_record, summarize, write_record
from loadtests.crowd.shoppers import Progress, RushPlan, rush, shoppers_of
from tests.loadtests.endpoint import (
    SOLD_OUT,
    Answer,
    Request,
    answer,
    endpoint,
    in_turn,
    refusal,
    replayed,
    reserved,
    selling,
    until,
)


def crowd(count: int, base_url: str = "http://127.0.0.1:1", **changes: Any) -> RushPlan:
    """Shoppers without peculiarities, unless `changes` say so, who are quick to try again."""
    plan = RushPlan(
        base_url=base_url,
        sale_id=7,
        tokens=[(f"user-{number}", f"token-{number}") for number in range(count)],
        connections=16,
        timeout_seconds=20,
        pause_min_seconds=0.01,
        double_click_share=0,
        hang_up_share=0,
        keyless_share=0,
    )
    return replace(plan, **changes)


async def run(plan: RushPlan, *, stop: asyncio.Event | None = None) -> CrowdRecord:
    return await rush(plan, lambda _: None, stop=stop)


def codes(record: CrowdRecord) -> dict[str, int]:
    return dict(Counter(attempt.code for attempt in record.attempts))


async def test_every_shopper_gets_a_final_answer_and_every_answer_is_in_the_record() -> None:
    async with endpoint(selling(units=30)) as shop:
        record = await run(crowd(200, shop.base_url, double_click_share=0.1, hang_up_share=0.05, keyless_share=0.2))

    assert record.complete
    assert Counter(record.outcomes) == {"reserved": 30, "sold_out": 170}
    assert len(record.attempts) == 200 + 20 + 10 == len(shop.requests)
    assert Counter((a.user_id.replace("user", "token"), a.key) for a in record.attempts) == Counter(
        request.click for request in shop.requests
    )
    assert all(attempt.sent_at <= attempt.received_at for attempt in record.attempts)


async def test_a_shopper_asks_as_the_contract_says() -> None:
    async with endpoint(selling(units=1)) as shop:
        await run(crowd(1, shop.base_url, seed=3))

    (request,) = shop.requests
    assert request.line == "POST /v1/seckill/sales/7/orders HTTP/1.1"
    assert (request.token, request.key) == ("token-0", "rush-3-0")
    assert json.loads(request.body) == {"quantity": 1}


async def test_the_seed_decides_who_is_peculiar_and_the_shares_are_exact() -> None:
    tokens = [(f"user-{number}", "t") for number in range(1000)]
    plan = RushPlan("http://127.0.0.1:1", 7, tokens, seed=5)

    shoppers = shoppers_of(plan)

    assert sum(shopper.clicks_twice for shopper in shoppers) == 100
    assert sum(shopper.hangs_up for shopper in shoppers) == 20
    assert sum(shopper.key is None for shopper in shoppers) == 200
    assert len({shopper.key for shopper in shoppers if shopper.key}) == 800
    assert shoppers == shoppers_of(plan)
    assert shoppers != shoppers_of(replace(plan, seed=6))


@pytest.mark.parametrize("keyless_share", [0, 1])
async def test_a_double_click_is_two_requests_at_once_over_two_connections_with_one_key(keyless_share: float) -> None:
    both_here = asyncio.Barrier(2)
    shop_script = selling(units=1)

    async def script(request: Request) -> Answer:
        await both_here.wait()
        return await shop_script(request)

    async with endpoint(script) as shop:
        record = await run(crowd(1, shop.base_url, double_click_share=1, keyless_share=keyless_share))

    first, second = shop.requests
    assert first.connection != second.connection
    assert first.click == second.click
    assert (first.key is None) == bool(keyless_share)
    assert codes(record) == {"reserved": 1, "replayed": 1}
    assert len({attempt.order_id for attempt in record.attempts}) == 1


async def test_who_hangs_up_has_sent_everything_and_tries_again_with_the_same_key() -> None:
    async with endpoint(selling(units=1)) as shop:
        record = await run(crowd(1, shop.base_url, hang_up_share=1))
        await until(lambda: len(shop.requests) == 2)

    assert shop.requests[0].click == shop.requests[1].click
    assert shop.requests[0].connection != shop.requests[1].connection
    assert (record.attempts[0].code, record.attempts[0].unknown) == ("hung_up", True)
    assert record.outcomes == ("reserved",)


@pytest.mark.parametrize(("status", "code"), [(429, "rate_limited"), (503, "overloaded"), (504, "unknown_outcome")])
async def test_nobody_asks_again_before_the_shop_wants_it(status: int, code: str) -> None:
    async with endpoint(in_turn(refusal(status, code, retry_after=1), reserved())) as shop:
        record = await run(crowd(1, shop.base_url))

    assert codes(record) == {code: 1, "reserved": 1}
    assert shop.requests[1].at - shop.requests[0].at >= 1.0
    assert shop.requests[0].click == shop.requests[1].click


async def test_before_the_start_shoppers_wait_until_the_start_and_not_longer() -> None:
    starts_at = datetime.now(UTC) + timedelta(seconds=0.4)
    early = refusal(403, "sale_not_started", retry_after=9, starts_at=starts_at.isoformat().replace("+00:00", "Z"))
    began = time.monotonic()

    async with endpoint(in_turn(early, reserved())) as shop:
        record = await run(crowd(1, shop.base_url))

    assert record.outcomes == ("reserved",)
    assert datetime.now(UTC) >= starts_at
    assert time.monotonic() - began < 9


async def test_a_start_that_is_past_by_the_crowds_clock_falls_back_on_retry_after() -> None:
    early = refusal(403, "sale_not_started", retry_after=1, starts_at="2020-01-01T00:00:00Z")

    async with endpoint(in_turn(early, reserved())) as shop:
        await run(crowd(1, shop.base_url))

    assert shop.requests[1].at - shop.requests[0].at >= 1.0


async def test_who_hung_up_before_the_start_hangs_up_again_when_it_counts() -> None:
    early = refusal(403, "sale_not_started", retry_after=0)

    async with endpoint(in_turn(early, early, SOLD_OUT)) as shop:
        record = await run(crowd(1, shop.base_url, hang_up_share=1))

    assert [attempt.code for attempt in record.attempts] == ["hung_up", "sale_not_started", "hung_up", "sold_out"]


async def test_a_lost_connection_and_a_proxys_own_error_are_tried_again_with_the_same_key() -> None:
    async with endpoint(in_turn(None, answer(502), answer(503), answer(500), answer(202), reserved())) as shop:
        record = await run(crowd(1, shop.base_url))

    assert [(attempt.code, attempt.unknown) for attempt in record.attempts] == [
        ("connection_lost", True),
        ("http_502", True),
        ("http_503", True),
        ("http_500", True),
        ("answer_unreadable", True),
        ("reserved", False),
    ]
    assert len({request.click for request in shop.requests}) == 1


async def test_the_shops_own_503_and_a_refused_connection_are_known_to_have_done_nothing() -> None:
    async with endpoint(in_turn(refusal(503, "not_ready", retry_after=0), SOLD_OUT)) as shop:
        record = await run(crowd(1, shop.base_url))
    nobody = await run(crowd(1, shop.base_url, timeout_seconds=0.2))

    assert not any(attempt.unknown for attempt in record.attempts)
    assert set(codes(nobody)) == {"connect_failed"}
    assert not any(attempt.unknown for attempt in nobody.attempts)


@pytest.mark.parametrize(
    ("status", "code"), [(409, "over_limit"), (410, "sale_ended"), (422, "idempotency_mismatch"), (401, "unauthorized")]
)
async def test_a_refusal_that_asking_again_would_not_change_is_final(status: int, code: str) -> None:
    async with endpoint(in_turn(refusal(status, code))) as shop:
        record = await run(crowd(1, shop.base_url))

    assert record.outcomes == (code,)
    assert len(shop.requests) == 1


async def test_a_refused_half_of_a_double_click_is_not_final_while_the_other_half_is_unknown() -> None:
    both_here = asyncio.Barrier(2)
    script = in_turn(SOLD_OUT, None, replayed(reserved()))

    async def together(request: Request) -> Answer:
        if len(shop.requests) <= 2:
            await both_here.wait()
        return await script(request)

    async with endpoint(together) as shop:
        record = await run(crowd(1, shop.base_url, double_click_share=1))

    assert record.outcomes == ("reserved",)
    assert codes(record) == {"sold_out": 1, "connection_lost": 1, "replayed": 2}


async def test_a_shopper_who_waits_holds_no_connection() -> None:
    async def script(request: Request) -> Answer:
        if request.token == "token-0" and len(shop.of_token("token-0")) == 1:
            return refusal(429, "rate_limited", retry_after=1)
        return SOLD_OUT

    async with endpoint(script) as shop:
        await run(crowd(10, shop.base_url, connections=1))

    last_of_the_others = max(request.at for request in shop.requests if request.token != "token-0")
    assert last_of_the_others < shop.of_token("token-0")[1].at
    assert shop.connections_made == 1


async def test_the_crowd_never_has_more_connections_than_it_may_and_keeps_them() -> None:
    async with endpoint(selling(units=5)) as shop:
        await run(crowd(300, shop.base_url, connections=8, double_click_share=0.5))

    assert shop.connections_open_max == 8
    assert shop.connections_made == 8


async def test_the_deadline_ends_the_run_and_who_has_no_answer_by_then_is_an_error() -> None:
    async def script(request: Request) -> Answer:
        if request.token == "token-0":
            await asyncio.Event().wait()
        return SOLD_OUT

    async with endpoint(script) as shop:
        record = await run(crowd(3, shop.base_url, timeout_seconds=0.4))

    assert not record.complete
    assert record.outcomes == (None, "sold_out", "sold_out")
    assert codes(record) == {"sold_out": 2, "unanswered": 1}
    assert [attempt.unknown for attempt in record.attempts if attempt.shopper == 0] == [True]
    assert summarize(record).errors == 1


async def test_a_request_without_an_answer_in_time_is_asked_again() -> None:
    async def script(request: Request) -> Answer:
        if len(shop.requests) == 1:
            await asyncio.Event().wait()
        return SOLD_OUT

    async with endpoint(script) as shop:
        record = await run(crowd(1, shop.base_url, request_timeout_seconds=0.1))

    assert codes(record) == {"answer_timeout": 1, "sold_out": 1}
    assert shop.requests[0].connection != shop.requests[1].connection


async def test_a_stop_ends_the_run_with_what_it_has() -> None:
    stop = asyncio.Event()

    async def script(_: Request) -> Answer:
        stop.set()
        return refusal(503, "sale_paused", retry_after=60)

    async with endpoint(script) as shop:
        record = await run(crowd(1, shop.base_url), stop=stop)

    assert not record.complete
    assert record.outcomes == (None,)


async def test_progress_is_told_as_it_goes_and_its_failure_ends_the_run() -> None:
    seen: list[Progress] = []

    def look(progress: Progress) -> None:
        seen.append(progress)

    def fail(_: Progress) -> None:
        raise BrokenPipeError

    async with endpoint(in_turn(refusal(429, "rate_limited", retry_after=1), reserved(), SOLD_OUT)) as shop:
        await rush(crowd(3, shop.base_url, connections=1), look)
    with pytest.raises(BrokenPipeError):
        await rush(crowd(1), fail)

    assert (2, 1, 3) in {(progress.answered, progress.reserved, progress.attempts) for progress in seen}
    assert (seen[-1].answered, seen[-1].attempts) == (3, 4)
    assert seen[-1].by_code == {"rate_limited": 1, "reserved": 1, "sold_out": 2}
    assert 2 <= len(seen) <= 10 * seen[-1].elapsed_seconds + 1


async def test_the_summary_counts_shoppers_by_their_last_word_and_requests_by_what_they_got(tmp_path: Path) -> None:
    script = in_turn(
        refusal(429, "rate_limited", retry_after=0),
        refusal(409, "over_limit"),
        refusal(409, "not_enough_units"),
        refusal(404, "not_found"),
        reserved(),
        SOLD_OUT,
    )
    async with endpoint(script) as shop:
        record = await run(crowd(5, shop.base_url, connections=1))

    summary = summarize(record)

    assert (summary.shoppers, summary.attempts, summary.rate_limited) == (5, 6, 1)
    assert (summary.reserved, summary.sold_out, summary.over_limit, summary.errors) == (1, 2, 1, 1)
    assert summary.reserve_p50_ms == summary.reserve_p99_ms
    assert summary.attempts_per_second > 0

    path = tmp_path / "record.jsonl"
    write_record(path, record)
    assert read_record(path) == record


async def test_the_wait_for_the_start_does_not_slow_the_attempts_per_second() -> None:
    starts_at = datetime.now(UTC) + timedelta(seconds=0.8)
    early = refusal(403, "sale_not_started", retry_after=9, starts_at=starts_at.isoformat())

    async with endpoint(in_turn(early, reserved())) as shop:
        record = await run(crowd(1, shop.base_url, hang_up_share=0))

    assert record.elapsed_seconds > 0.5
    assert summarize(record).attempts_per_second > 2


def test_a_percentile_is_one_of_the_values() -> None:
    hundred = [float(number) for number in range(1, 101)]

    assert (percentile(hundred, 0.5), percentile(hundred, 0.99), percentile([7.0], 0.5)) == (50.0, 99.0, 7.0)
    assert percentile([], 0.5) is None
