"""Polling stays cheap: nothing new is 304, and a crowd is told times to ask that lie apart."""

import asyncio
from itertools import pairwise
from uuid import UUID

import httpx
import pytest
from sqlalchemy import text

from shop.http_headers import matches
from shop.orders import repository
from shop.orders.life import By, move
from shop.orders.models import OrderStatus
from shop.orders.service import recorded
from shop.orders.versions import etag_of, version_of
from shop.seckill.polls import UNSEEN_SECONDS, Polls
from shop.settings import Settings
from tests.api.answers import problem_of
from tests.api.orders import cancel, recording_held_up, until_released
from tests.harness import Shop, new_user_id, running_shop, wait_until
from tests.processes import copy_of

CROWD = 300


async def poll(shop: Shop, order_id: str, user_id: str, *tags: str) -> httpx.Response:
    """Ask for an order whose state is known by these tags."""
    headers = shop.headers(user_id)
    if tags:
        headers["If-None-Match"] = ", ".join(tags)
    return await (await shop.client()).get(f"/v1/orders/{order_id}", headers=headers)


async def recorded_order(shop: Shop) -> tuple[str, str]:
    """The id of an order that has its row, and its buyer."""
    sale, user = await shop.open_sale(units=5), new_user_id()
    order_id = await shop.bought(sale, user)
    await shop.drained(sale)
    return order_id, user


async def test_an_order_that_has_not_changed_is_304_without_a_body(shop: Shop) -> None:
    order_id, user = await recorded_order(shop)
    first = await poll(shop, order_id, user)

    again = await poll(shop, order_id, user, first.headers["etag"])

    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    for answer in (first, again):
        assert answer.headers["cache-control"] == "private, no-cache"
        assert "Authorization" in answer.headers["vary"]
        assert answer.headers["x-request-id"]


async def test_every_change_of_an_order_is_another_etag(shop: Shop) -> None:
    """Accepted, recorded, cancelled and released: no state is mistaken for another."""
    sale, user = await shop.open_sale(units=5), new_user_id()
    async with recording_held_up(shop, sale):
        order_id = await shop.bought(sale, user)
        answers = [await poll(shop, order_id, user)]
    await shop.drained(sale)
    answers.append(await poll(shop, order_id, user, answers[-1].headers["etag"]))
    await cancel(shop, order_id, user)
    await until_released(shop, order_id, user)
    answers.append(await poll(shop, order_id, user, *(answer.headers["etag"] for answer in answers)))

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert len({answer.headers["etag"] for answer in answers}) == 3


async def test_a_state_is_never_half_old(shop: Shop) -> None:
    """Or its tag would be that of another state, and its client would never see one of the two."""
    order_id, user = await recorded_order(shop)
    async with shop.database.transaction() as session:
        await session.execute(text("LOCK TABLE order_events IN ACCESS EXCLUSIVE MODE"))
        polling = asyncio.create_task(poll(shop, order_id, user))
        await wait_until(lambda: waits_for_events(shop), reason="the order's row is read, and its events are not")
        await move(session, [UUID(order_id)], OrderStatus.PAID, by=By.PROVIDER, reason="paid")
    meanwhile, after = await polling, await poll(shop, order_id, user)

    states = [
        (answer.json()["status"], len(answer.json()["timeline"]), answer.headers["etag"])
        for answer in (meanwhile, after)
    ]
    assert states[0] in {("reserved", 1, 'W/"2"'), ("paid", 2, 'W/"3"')}
    assert states[1] == ("paid", 2, 'W/"3"')


async def waits_for_events(shop: Shop) -> bool:
    async with shop.database.transaction() as session:
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'order_events'::regclass"
        return bool(await session.scalar(text(waiting)))


async def test_an_order_on_its_way_is_304_while_its_client_is_told_the_same(shop: Shop) -> None:
    """Another time to ask is another state: a client must not go on with the old one."""
    sale, user = await shop.open_sale(units=5), new_user_id()
    async with recording_held_up(shop, sale):
        order_id = await shop.bought(sale, user)
        first = await poll(shop, order_id, user)
        again = await poll(shop, order_id, user, first.headers["etag"])

    assert first.json()["poll_after_ms"] == shop.settings.poll_after_ms
    assert first.headers["etag"] == f'W/"1-{shop.settings.poll_after_ms}"'
    assert again.status_code == 304


async def test_who_may_not_see_an_order_is_not_told_that_it_is_unchanged(shop: Shop) -> None:
    order_id, user = await recorded_order(shop)
    tag = (await poll(shop, order_id, user)).headers["etag"]

    for tags in ([tag], ["*"]):
        problem_of(await poll(shop, order_id, new_user_id(), *tags), 404, "not_found")


@pytest.mark.parametrize(
    ("if_none_match", "matched"),
    [
        ('W/"2"', True),
        ('"2"', True),
        ('"1", W/"2"', True),
        ('"1",W/"2",  "x"', True),
        ("*", True),
        (" * ", True),
        ('W/"22"', False),
        ("2", False),
        ('W/"2', False),
        ("", False),
        ('"*"', False),
        ("\xff,,;=", False),
    ],
)
def test_an_if_none_match_is_compared_weakly(if_none_match: str, matched: bool) -> None:
    assert matches(if_none_match, etag_of(2)) is matched


async def test_the_version_that_postgres_counts_is_the_one_of_the_order(shop: Shop) -> None:
    """A poll compares the one, an answer carries the other."""
    order_id, user = await recorded_order(shop)
    await cancel(shop, order_id, user)
    await until_released(shop, order_id, user)
    other_id, _ = await recorded_order(shop)

    async with shop.database.transaction() as session:
        rows = await repository.find_each(session, [UUID(order_id), UUID(other_id)])
        orders = [await recorded(session, row) for row in rows]
        counted = await repository.versions(session, [order.id for order in orders])

    assert {order.id: version_of(order) for order in orders} == counted
    assert sorted(counted.values()) == [2, 4]


@pytest.fixture
def polls(clean_settings: Settings) -> Polls:
    """Half a second at least, ten at most, and polls that cost 2.5 ms on a quarter of a core: 100 a second."""
    polls = Polls(copy_of(clean_settings, poll_after_ms=500, poll_after_ms_max=10_000, poll_cpu_share=0.25))
    polls.measured((0.0025 - UNSEEN_SECONDS) * 1_000, polls=1_000)
    return polls


def test_a_client_without_a_crowd_asks_again_soon(polls: Polls) -> None:
    assert [polls.due(now) - now for now in (1_000.0, 1_001.0, 1_060.0)] == [0.5, 0.5, 0.5]


def test_a_crowd_is_told_times_to_ask_that_lie_apart(polls: Polls) -> None:
    """However many come at once, those that come back take no more than their share of a core."""
    due = [polls.due(1_000.0) for _ in range(CROWD)]

    assert due[0] == 1_000.5
    assert min(later - earlier for earlier, later in pairwise(due)) > 0.0099
    assert due[-1] == pytest.approx(1_000.5 + (CROWD - 1) / 100)


def test_the_delay_has_a_bound_and_shrinks_when_the_crowd_is_gone(polls: Polls) -> None:
    assert max(polls.due(1_000.0) for _ in range(5_000)) == 1_010.0
    assert polls.due(1_005.0) == pytest.approx(1_010.01)
    assert polls.due(1_020.0) == 1_020.5


async def test_the_delay_that_buyers_are_told_grows_with_their_number(live_shop: Shop) -> None:
    """In the answers to purchases and in those to polls, which share the process's time."""
    settings = copy_of(live_shop.settings, poll_cpu_share=0.00015, poll_after_ms_max=3_000)
    sale, user = await live_shop.open_sale(units=20), new_user_id()
    async with running_shop(settings, worker=False) as busy, recording_held_up(live_shop, sale):
        await busy.until_loaded(sale)
        order_id = await busy.bought(sale, user)
        answers = await asyncio.gather(*(busy.buy(sale) for _ in range(5)))
        polled = await poll(busy, order_id, user)

    told = sorted(answer.json()["poll_after_ms"] for answer in answers)
    assert told[0] < told[1] < 3_000
    assert told[-1] == 3_000
    assert polled.json()["poll_after_ms"] > 2_000


def test_what_polls_cost_is_measured_and_one_dear_batch_does_not_say_it(polls: Polls) -> None:
    """The dearer they are, the farther apart; what cannot be is not believed."""
    gap_seconds = polls.gap_seconds
    polls.measured(0.05, polls=1)
    assert polls.gap_seconds == pytest.approx(gap_seconds, rel=0.01)

    for _ in range(100):
        polls.measured(0.0064, polls=128)
    cheap = polls.gap_seconds
    polls.measured(1_000.0, polls=10_000)

    assert gap_seconds == pytest.approx(0.01)
    assert cheap == pytest.approx((0.00005 + UNSEEN_SECONDS) / 0.25, rel=0.01)
    assert polls.gap_seconds == pytest.approx(0.02)


def test_a_greatest_delay_below_the_least_is_no_configuration(clean_settings: Settings) -> None:
    with pytest.raises(ValueError, match="SHOP_POLL_AFTER_MS_MAX"):
        copy_of(clean_settings, poll_after_ms=500, poll_after_ms_max=400)
