"""A buyer's orders over HTTP, whether their rows are there yet or only their entries in the ledger."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from shop.ledger import client as ledger
from shop.ledger.order_ids import numbered_order_id
from tests.api.answers import problem_of
from tests.api.orders import cancel, list_orders, read, recording_held_up, until_released
from tests.harness import Shop, new_user_id, outcome


async def test_an_order_is_never_missing_between_the_promise_and_its_row(shop: Shop) -> None:
    """Until its row exists it is answered from the ledger as `reserved`; later from the row, with the same values."""
    sale = await shop.open_sale(units=5, units_per_user=2, hold_seconds=600)
    user = new_user_id()
    async with recording_held_up(shop, sale):
        promised = (await shop.buy(sale, user, quantity=2)).json()
        early = await read(shop, promised["id"], user)

    await shop.drained(sale)
    late = await read(shop, promised["id"], user)

    assert (early.status_code, late.status_code) == (200, 200)
    before, after = early.json(), late.json()
    assert (before.pop("recorded"), after.pop("recorded")) == (False, True)
    assert (before.pop("poll_after_ms"), after.pop("poll_after_ms")) == (shop.settings.poll_after_ms, None)
    assert datetime.fromisoformat(after.pop("expires_at")) >= datetime.fromisoformat(before.pop("expires_at"))
    assert before == after
    assert [entry["event"] for entry in before["timeline"]] == ["reserved"]
    assert before | {"reserved_at": None, "timeline": None} == {
        "object": "order",
        "id": promised["id"],
        "sale_id": sale.id,
        "status": "reserved",
        "quantity": 2,
        "total_minor": promised["total_minor"],
        "currency": "EUR",
        "lines": [
            {
                "product_id": sale.product_id,
                "quantity": 2,
                "price_minor": sale.price_minor,
                "currency": promised["currency"],
            }
        ],
        "payment": None,
        "reserved_at": None,
        "closed_at": None,
        "released_at": None,
        "timeline": None,
    }
    assert datetime.fromisoformat(before["reserved_at"]) == datetime.fromisoformat(promised["reserved_at"])


async def test_the_location_of_a_purchase_is_the_order(shop: Shop) -> None:
    sale = await shop.open_sale(units=1)
    user = new_user_id()
    accepted = await shop.buy(sale, user)

    answer = await (await shop.client()).get(accepted.headers["location"], headers=shop.headers(user))

    assert (answer.status_code, answer.json()["id"]) == (200, accepted.json()["id"])


async def test_the_order_of_somebody_else_is_not_found_recorded_or_not(shop: Shop) -> None:
    """404 for reading and for cancelling: whether it exists is nobody's business."""
    sale = await shop.open_sale(units=5)
    owner, other = new_user_id(), new_user_id()
    async with recording_held_up(shop, sale):
        order_id = await shop.bought(sale, owner)
        problem_of(await read(shop, order_id, other), 404, "not_found")
        problem_of(await cancel(shop, order_id, other), 404, "not_found")

    await shop.drained(sale)
    problem_of(await read(shop, order_id, other), 404, "not_found")
    problem_of(await cancel(shop, order_id, other), 404, "not_found")
    admin = await (await shop.client()).get(f"/v1/orders/{order_id}", headers=shop.admin_headers())
    problem_of(admin, 404, "not_found")
    assert (await read(shop, order_id, owner)).json()["status"] == "reserved"


async def test_an_order_that_was_never_made_is_not_found(shop: Shop) -> None:
    """Whatever the id says: no sale, a draft, a sale that does not exist, an order that was not made."""
    sale, draft = await shop.open_sale(units=5), await shop.draft_sale(units=5)
    user = new_user_id()
    ids = [
        str(uuid4()),
        "00000000-0000-8000-8000-000000000000",
        "ffffffff-ffff-8fff-bfff-ffffffffffff",
        numbered_order_id(sale.id, sale.salt, user, 1).hex(),
        numbered_order_id(draft.id, draft.salt, user, 1).hex(),
        numbered_order_id(2**31 - 2, b"salt", user, 1).hex(),
    ]
    for order_id in ids:
        problem_of(await read(shop, order_id, user), 404, "not_found")
        problem_of(await cancel(shop, order_id, user), 404, "not_found")


@pytest.mark.parametrize("order_id", ["1", "x" * 36, "x" * 10_000, "%7B1.1%7D", "..%2Fusers", "%00", "%0D%0A"])
async def test_an_id_that_is_none_is_invalid(shop: Shop, order_id: str) -> None:
    client, headers = await shop.client(), shop.headers()

    for answer in (
        await client.get(f"/v1/orders/{order_id}", headers=headers),
        await client.post(f"/v1/orders/{order_id}/cancel", headers=headers),
    ):
        assert answer.status_code in {404, 422}
        problem_of(answer, answer.status_code, "invalid" if answer.status_code == 422 else "not_found")


async def test_orders_are_for_those_who_have_a_token(shop: Shop) -> None:
    client = await shop.client()
    for headers in ({}, {"Authorization": "Bearer forged"}):
        for method, path in (
            ("GET", "/v1/orders"),
            ("GET", f"/v1/orders/{uuid4()}"),
            ("POST", f"/v1/orders/{uuid4()}/cancel"),
        ):
            problem_of(await client.request(method, path, headers=headers), 401, "unauthorized")


async def test_the_list_pages_through_all_orders_the_newest_first(shop: Shop) -> None:
    """Each once, with a cursor and a link to the next page; another buyer's are not in it."""
    sale = await shop.open_sale(units=20, units_per_user=20, orders_per_user=20)
    user, other = new_user_id(), new_user_id()
    made = [await shop.bought(sale, user, key=f"key-{number}") for number in range(5)]
    await shop.buy(sale, other)
    await shop.drained(sale)

    seen: list[str] = []
    url = "/v1/orders?limit=2"
    while url:
        page = await (await shop.client()).get(url, headers=shop.headers(user))
        body = page.json()
        assert (page.status_code, body["object"], body["may_lag"]) == (200, "list", True)
        assert len(body["data"]) <= 2
        assert body["has_more"] is ("link" in page.headers)
        seen += [order["id"] for order in body["data"]]
        url = page.links["next"]["url"] if page.links else ""
    assert seen == made[::-1]

    assert [order["id"] for order in (await list_orders(shop, user)).json()["data"]] == made[::-1]
    cursor = {"starting_after": made[1], "limit": 100}
    assert [order["id"] for order in (await list_orders(shop, user, **cursor)).json()["data"]] == [made[0]]


async def test_the_list_of_a_buyer_without_orders_is_empty(shop: Shop) -> None:
    assert (await list_orders(shop, new_user_id())).json() == {
        "object": "list",
        "data": [],
        "has_more": False,
        "may_lag": True,
    }


async def test_a_cursor_of_somebody_else_tells_nothing(shop: Shop) -> None:
    """It is no order of this buyer, so nothing comes after it."""
    sale = await shop.open_sale(units=5, units_per_user=5)
    user, other = new_user_id(), new_user_id()
    foreign = await shop.bought(sale, other)
    await shop.buy(sale, user)
    await shop.drained(sale)

    assert (await list_orders(shop, user, starting_after=foreign)).json()["data"] == []


@pytest.mark.parametrize(
    "query", [{"limit": 0}, {"limit": 101}, {"limit": -1}, {"limit": "x"}, {"limit": 10**30}, {"starting_after": "x"}]
)
async def test_a_page_that_cannot_be_is_invalid(shop: Shop, query: dict[str, Any]) -> None:
    problem_of(await list_orders(shop, new_user_id(), **query), 422, "invalid")


async def test_the_list_may_lag_and_says_so(shop: Shop) -> None:
    """What was accepted a moment ago is found by its id, and in the list when it is recorded."""
    sale = await shop.open_sale(units=5)
    user = new_user_id()
    async with recording_held_up(shop, sale):
        order_id = await shop.bought(sale, user)
        lagging = (await list_orders(shop, user)).json()
        assert (lagging["data"], lagging["may_lag"]) == ([], True)
        assert (await read(shop, order_id, user)).status_code == 200

    await shop.drained(sale)
    assert [order["id"] for order in (await list_orders(shop, user)).json()["data"]] == [order_id]


async def test_a_cancel_closes_the_order_and_gives_its_units_back(shop: Shop) -> None:
    """They are sold again at once, and count towards the buyer's limit no more (F24)."""
    sale = await shop.open_sale(units=2, units_per_user=2)
    user, next_buyer = new_user_id(), new_user_id()
    order_id = await shop.bought(sale, user, quantity=2)
    assert outcome(await shop.buy(sale, next_buyer)) == "sold_out"

    answer = await cancel(shop, order_id, user)

    body = answer.json()
    assert (answer.status_code, body["status"], body["recorded"]) == (200, "cancelled", True)
    assert datetime.fromisoformat(body["closed_at"]) > datetime.now(UTC) - timedelta(seconds=30)
    await shop.buys(sale, next_buyer)
    assert (await until_released(shop, order_id, user))["status"] == "cancelled"
    assert (await shop.drained(sale)).units_taken == 1
    assert (await shop.audit(sale)).balanced


async def test_cancelling_twice_or_at_once_is_the_same_as_once(shop: Shop) -> None:
    """F23: the units go back once (I8)."""
    sale = await shop.open_sale(units=5, units_per_user=2)
    user = new_user_id()
    order_id = await shop.bought(sale, user, quantity=2)

    answers = await asyncio.gather(*(cancel(shop, order_id, user) for _ in range(20)))
    await until_released(shop, order_id, user)
    answers.append(await cancel(shop, order_id, user))

    assert {(answer.status_code, answer.json()["status"]) for answer in answers} == {(200, "cancelled")}
    assert len({answer.json()["closed_at"] for answer in answers}) == 1
    state = await ledger.read_state(shop.redis, sale.id, 1)
    assert state is not None
    assert (state.available, state.seq) == (5, 2)


async def test_an_order_that_is_not_recorded_yet_cannot_be_cancelled_yet(shop: Shop) -> None:
    """503 after a wait, and nothing was done: the retry cancels it."""
    sale = await shop.open_sale(units=5)
    user = new_user_id()
    async with recording_held_up(shop, sale):
        order_id = await shop.bought(sale, user)
        problem_of(await cancel(shop, order_id, user), 503, "not_recorded_yet")
        assert (await read(shop, order_id, user)).json()["status"] == "reserved"

    await shop.drained(sale)
    assert (await cancel(shop, order_id, user)).json()["status"] == "cancelled"


async def test_a_cancel_waits_for_the_row_that_is_on_its_way(shop: Shop) -> None:
    """Whoever cancels right after the purchase does not hear of rows at all."""
    sale = await shop.open_sale(units=5)
    user = new_user_id()
    async with recording_held_up(shop, sale):
        order_id = await shop.bought(sale, user)
        cancelling = asyncio.create_task(cancel(shop, order_id, user))
        await asyncio.wait({cancelling}, timeout=0.2)
        assert not cancelling.done()

    assert (await cancelling).json()["status"] == "cancelled"


async def test_a_hold_that_has_run_out_is_expired_by_the_shop_and_cannot_be_cancelled(shop: Shop) -> None:
    """F18: its units are sold again, and a cancel that comes too late is told what came first."""
    sale = await shop.open_sale(units=1, hold_seconds=1)
    user = new_user_id()
    order_id = await shop.bought(sale, user)

    order = await until_released(shop, order_id, user)

    assert order["status"] == "expired"
    assert datetime.fromisoformat(order["closed_at"]) >= datetime.fromisoformat(order["expires_at"])
    assert problem_of(await cancel(shop, order_id, user), 409, "order_closed")["order_status"] == "expired"
    assert outcome(await shop.buy(sale)) == "reserved"
    assert (await shop.audit(sale)).balanced
