"""The life of a sale in the hands of an admin: what is allowed when, and where the units are at every step."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from shop.admin_events import AdminEvent
from shop.ledger.keys import DIRECTORY, ledger_keys
from shop.sales.models import Sale, SaleStatus
from tests.api.answers import problem_of
from tests.api.sales import ADMIN_SALES, cancel, post, read_public, soon, stock_of, until_public, until_status, wish
from tests.harness import Shop, keyed, new_user_id, outcome, wait_until


@pytest.mark.parametrize("verb", ["", "/schedule", "/window", "/pause", "/resume", "/close", "/stock", "/audit"])
async def test_a_sale_that_does_not_exist_is_not_found(shop: Shop, verb: str) -> None:
    client, bodies = await shop.client(), {"/window": {"ends_at": soon(60)}, "/stock": {"delta": 1}}
    method = "GET" if verb in {"", "/audit"} else "POST"

    answer = await client.request(
        method, f"{ADMIN_SALES}/999999999{verb}", headers=keyed(shop.admin_headers()), json=bodies.get(verb)
    )

    problem_of(answer, 404, "not_found")


async def test_a_start_moves_before_it_and_stands_after_it(shop: Shop) -> None:
    """The ledger decides by its clock: `started` once the sale has, whatever the admin's browser believes."""
    sale = await shop.open_sale(starts_in=3_600)
    assert outcome(await shop.buy(sale)) == "sale_not_started"

    moved = await shop.change(sale, "window", {"starts_at": soon(-1)})
    assert (moved.status_code, moved.json()["outcome"], moved.json()["n"]) == (200, "applied", 1)
    assert outcome(await shop.buy(sale)) == "reserved"

    document = problem_of(await shop.change(sale, "window", {"starts_at": soon(1_800)}), 409, "change_refused")
    assert document["reason"] == "started"
    longer = await shop.change(sale, "window", {"ends_at": soon(9_000)})
    assert longer.json()["outcome"] == "applied"
    await shop.drained(sale)
    assert outcome(await shop.buy(sale)) == "reserved"
    assert datetime.fromisoformat((await read_public(shop, sale))["ends_at"]) > datetime.now(UTC) + timedelta(hours=2)


async def test_an_end_that_moves_to_the_past_ends_the_sale(shop: Shop) -> None:
    sale = await shop.open_sale(units=5, starts_in=-60)

    assert (await shop.change(sale, "window", {"ends_at": soon(-1)})).json()["outcome"] == "applied"

    assert outcome(await shop.buy(sale)) == "sale_ended"
    await until_status(shop, sale, SaleStatus.ENDED)
    assert await stock_of(shop, sale) == 5


async def test_a_change_of_units_that_is_none_is_invalid(shop: Shop) -> None:
    sale = await shop.open_sale(units=5, stock=100)
    bodies: list[Any] = [{"delta": 0}, {"delta": 1.5}, {"delta": "1"}, {"delta": None}, {"delta": 10**30}, {}, []]

    for body in bodies:
        problem_of(await shop.change(sale, "stock", body), 422, "invalid")
    assert (await shop.row(sale)).changes == 0


async def test_units_go_down_to_what_is_free_and_the_refusal_says_why(shop: Shop) -> None:
    """409 `too_few_units` from the ledger; what is taken stays taken (I4)."""
    sale = await shop.open_sale(units=10, stock=10)
    for _ in range(4):
        assert outcome(await shop.buy(sale)) == "reserved"

    document = problem_of(await shop.change(sale, "stock", {"delta": -7}), 409, "change_refused")
    assert document["reason"] == "too_few_units"
    assert (await shop.change(sale, "stock", {"delta": -6})).json()["outcome"] == "applied"
    assert outcome(await shop.buy(sale)) == "sold_out"
    row = await shop.drained(sale)
    assert (row.units, row.units_taken, await stock_of(shop, sale)) == (4, 4, 6)
    assert (await shop.audit(sale)).balanced


async def test_units_go_up_by_what_the_product_has(shop: Shop) -> None:
    sale = await shop.open_sale(units=1, stock=3)
    await shop.buy(sale)

    problem_of(await shop.change(sale, "stock", {"delta": 3}), 409, "not_enough_stock")
    assert (await shop.row(sale)).changes == 0
    assert (await shop.change(sale, "stock", {"delta": 2})).json()["outcome"] == "applied"
    assert [outcome(await shop.buy(sale)) for _ in range(3)] == ["reserved", "reserved", "sold_out"]
    assert await stock_of(shop, sale) == 0


async def test_a_paused_sale_sells_nothing_until_it_is_resumed(shop: Shop) -> None:
    sale = await shop.open_sale(units=5)

    assert (await shop.change(sale, "pause")).json()["outcome"] == "applied"
    assert outcome(await shop.buy(sale)) == "sale_paused"
    await shop.drained(sale)
    await until_public(shop, sale, phase="paused")
    assert (await shop.change(sale, "resume")).json()["outcome"] == "applied"
    assert outcome(await shop.buy(sale)) == "reserved"


async def test_a_sale_that_has_ended_is_not_changed_any_more(shop: Shop) -> None:
    sale = await shop.open_sale(units=5)
    await shop.buy(sale)
    await shop.change(sale, "close")
    await until_status(shop, sale, SaleStatus.ENDED)

    for verb in ("pause", "resume", "close"):
        problem_of(await shop.change(sale, verb), 409, "sale_state")
    problem_of(await shop.change(sale, "stock", {"delta": -1}), 409, "sale_state")
    problem_of(await shop.change(sale, "window", {"ends_at": soon(9_000)}), 409, "sale_state")


async def test_the_stock_of_the_product_follows_every_step_exactly(shop: Shop) -> None:
    """Every unit is with the product or with the sale, and at the end with the product again (I3)."""
    sale = await shop.draft_sale(units=30, stock=100, units_per_user=5)
    ann, bob, cid = new_user_id(), new_user_id(), new_user_id()

    async def expect(*, stock: int, units: int, taken: int) -> None:
        row = await shop.drained(sale)
        assert (await stock_of(shop, sale), row.units, row.units_taken) == (stock, units, taken)
        assert (await shop.audit(sale)).balanced

    assert await stock_of(shop, sale) == 100
    await post(shop, f"{ADMIN_SALES}/{sale.id}/schedule")
    await shop.until_loaded(sale)
    await expect(stock=70, units=30, taken=0)
    await shop.change(sale, "stock", {"delta": 10})
    await expect(stock=60, units=40, taken=0)
    await shop.change(sale, "stock", {"delta": -5})
    await expect(stock=65, units=35, taken=0)
    bought = {user: await shop.bought(sale, user, quantity=n) for user, n in ((ann, 5), (bob, 3), (cid, 1))}
    await expect(stock=65, units=35, taken=9)
    await cancel(shop, bought[ann], ann)
    await until_returned(shop, sale, taken=4)
    await expect(stock=65, units=35, taken=4)
    await shop.change(sale, "stock", {"delta": -1_000})
    await expect(stock=65, units=35, taken=4)

    await shop.change(sale, "close")
    await until_status(shop, sale, SaleStatus.ENDED)
    await expect(stock=96, units=4, taken=4)

    # What comes back after the end goes to the product at once.
    await cancel(shop, bought[bob], bob)
    await until_returned(shop, sale, taken=1)
    await expect(stock=99, units=1, taken=1)
    await cancel(shop, bought[cid], cid)
    settled = await until_status(shop, sale, SaleStatus.SETTLED)
    assert (await stock_of(shop, sale), settled.units, settled.units_taken) == (100, 0, 0)
    assert (await shop.audit(sale)).balanced


async def until_returned(shop: Shop, sale: Sale, *, taken: int) -> None:
    async def returned() -> bool:
        return (await shop.row(sale)).units_taken == taken

    await wait_until(returned, reason=f"{taken} units are taken")


async def test_a_sale_settles_by_itself_when_nothing_is_open_and_its_keys_leave_redis(shop: Shop) -> None:
    """It opens, ends and settles without anybody doing anything or hearing an alarm; only its rows stay."""
    sale = await shop.open_sale(units=3, hold_seconds=1)
    assert outcome(await shop.buy(sale)) == "reserved"
    await shop.change(sale, "window", {"ends_at": soon(0.5)})

    async def gone() -> bool:
        keys = ledger_keys(sale.id, 1)
        listed = await shop.redis.execute_command("HEXISTS", DIRECTORY, sale.id)  # type: ignore[no-untyped-call]
        return await shop.redis.exists(*keys) == 0 and not listed

    async def left_alone() -> bool:
        return f"persister {sale.id}" not in {task.get_name() for task in asyncio.all_tasks()}

    with capture_logs() as logs:
        await until_status(shop, sale, SaleStatus.ENDED)
        row = await until_status(shop, sale, SaleStatus.SETTLED)
        await wait_until(gone, reason="the keys are gone")
        await wait_until(left_alone, reason="its persister has ended")
    assert [entry for entry in logs if entry["log_level"] == "error"] == []
    assert (row.units, row.units_taken, await stock_of(shop, sale)) == (0, 0, 3)
    await until_public(shop, sale, phase="settled")
    assert (await shop.audit(sale)).balanced


async def test_a_sale_with_an_open_order_does_not_settle(shop: Shop) -> None:
    """Its ledger must still be there to take the units back."""
    sale = await shop.open_sale(units=1)
    await shop.buy(sale)
    await shop.change(sale, "close")
    ended = await until_status(shop, sale, SaleStatus.ENDED)
    assert ended.units_taken == 1

    async def followed() -> bool:
        other = await shop.open_sale(units=1)
        return (await shop.row(other)).status == SaleStatus.SCHEDULED

    await wait_until(followed, reason="the controller has looked at all sales again")
    assert (await shop.row(sale)).status == SaleStatus.ENDED
    assert await shop.redis.exists(ledger_keys(sale.id, 1).sale) == 1


async def test_the_public_sees_a_band_and_never_the_number(shop: Shop) -> None:
    sale = await shop.open_sale(units=20, starts_in=-1)
    public = await read_public(shop, sale)

    assert set(public) == {
        *("object", "id", "product_id", "name", "phase", "stock", "price_minor", "currency", "units_per_user"),
        *("starts_at", "ends_at"),
    }
    assert (public["phase"], public["stock"]) == ("open", "plenty")
    for _ in range(18):
        await shop.buy(sale)
    await shop.drained(sale)
    await until_public(shop, sale, stock="few")
    for _ in range(2):
        await shop.buy(sale)
    await shop.drained(sale)
    await until_public(shop, sale, stock="none")


async def test_the_countdown_is_by_the_server(shop: Shop) -> None:
    sale = await shop.open_sale(starts_in=1_000)

    public = await read_public(shop, sale)
    answer = await (await shop.client()).get("/v1/time")

    assert (public["phase"], answer.headers["cache-control"]) == ("scheduled", "no-store")
    server_time = datetime.fromisoformat(answer.json()["server_time"])
    assert abs((server_time - datetime.now(UTC)).total_seconds()) < 5
    assert 900 < (datetime.fromisoformat(public["starts_at"]) - server_time).total_seconds() <= 1_000


async def test_the_lists_show_drafts_to_admins_alone(shop: Shop) -> None:
    draft, sale = await shop.draft_sale(), await shop.open_sale()
    client = await shop.client()
    public = (await client.get("/v1/seckill/sales", params={"limit": 100})).json()
    admin = (await client.get(ADMIN_SALES, params={"limit": 100}, headers=shop.admin_headers())).json()

    assert sale.id in {each["id"] for each in public["data"]}
    assert draft.id not in {each["id"] for each in public["data"]}
    assert {sale.id, draft.id} <= {each["id"] for each in admin["data"]}
    page = await client.get(ADMIN_SALES, params={"limit": 1, "starting_after": sale.id}, headers=shop.admin_headers())
    assert [each["id"] for each in page.json()["data"]] == [draft.id]
    assert f"starting_after={draft.id}" in page.headers["link"]


async def test_every_admin_route_is_closed_to_shoppers_and_strangers(shop: Shop) -> None:
    """403 with a shopper's token and 401 without one, before anything else is looked at."""
    client = await shop.client()
    document = (await client.get("/openapi.json")).json()
    routes = [
        (method, path) for path, item in document["paths"].items() if path.startswith("/v1/admin") for method in item
    ]
    assert len(routes) >= 15
    for method, path in routes:
        url = re.sub(r"\{[a-z_]+\}", "1", path)
        problem_of(await client.request(method, url, headers=shop.headers()), 403, "forbidden")
        problem_of(await client.request(method, url), 401, "unauthorized")


async def test_every_change_says_who_asked_for_it_when_and_from_where(shop: Shop) -> None:
    """`admin_events`: actor, address and request id, in the transaction of the change."""
    client = await shop.client()
    made = (await post(shop, ADMIN_SALES, await wish(shop, starts_at=soon(-1)), **{"X-Request-Id": "make-1"})).json()
    path = f"{ADMIN_SALES}/{made['id']}"
    headers = shop.headers("eve", role="admin")
    asked: list[tuple[str, str, Any]] = [
        ("PATCH", "", {"units": 5}),
        ("POST", "/schedule", None),
        ("POST", "/stock", {"delta": 2}),
        ("POST", "/pause", None),
        ("POST", "/resume", None),
        ("POST", "/window", {"ends_at": soon(9_000)}),
        ("POST", "/close", None),
    ]
    for number, (method, verb, body) in enumerate(asked):
        answer = await client.request(
            method, path + verb, json=body, headers={**keyed(headers), "X-Request-Id": f"eve-{number}"}
        )
        assert answer.status_code == 200, answer.text

    async with shop.database.transaction() as session:
        query = select(AdminEvent).where(AdminEvent.subject == "sale", AdminEvent.subject_id == str(made["id"]))
        events = list(await session.scalars(query.order_by(AdminEvent.id)))
    by_people = [event for event in events if event.actor_id != "controller"]
    assert [(event.actor_id, event.request_id, event.action) for event in by_people] == [
        ("admin", "make-1", "sale.create"),
        ("eve", "eve-0", "sale.edit"),
        ("eve", "eve-1", "sale.schedule"),
        ("eve", "eve-2", "sale.units"),
        ("eve", "eve-3", "sale.pause"),
        ("eve", "eve-4", "sale.resume"),
        ("eve", "eve-5", "sale.window"),
        ("eve", "eve-6", "sale.close"),
    ]
    assert {event.address for event in by_people} == {"127.0.0.1"}
    assert by_people[1].details == {"units": 5}
    assert (by_people[3].details["units_delta"], by_people[3].details["n"]) == (2, 1)
    now = datetime.now(UTC)
    assert all(abs((now - event.created_at).total_seconds()) < 60 for event in by_people)


async def test_a_refused_change_leaves_no_event_of_an_admin(shop: Shop) -> None:
    """What was not done was not done by anybody."""
    sale = await shop.draft_sale(units=10, stock=5)
    await post(shop, f"{ADMIN_SALES}/{sale.id}/schedule")
    await shop.change(sale, "close")

    async with shop.database.transaction() as session:
        query = select(AdminEvent.action).where(AdminEvent.subject == "sale", AdminEvent.subject_id == str(sale.id))
        assert list(await session.scalars(query)) == ["sale.create"]
