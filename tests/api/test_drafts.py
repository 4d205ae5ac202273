"""Sales before they are scheduled: drafts are edited freely, and what breaks a rule is no sale."""

import asyncio
from typing import Any

import pytest

from tests.api.answers import problem_of
from tests.api.sales import ADMIN_SALES, patch, post, read, soon, stock_of, wish
from tests.harness import Shop


async def test_a_draft_is_made_with_the_price_of_its_product_and_takes_nothing(shop: Shop) -> None:
    body = await wish(shop, units=30)

    answer = await post(shop, ADMIN_SALES, body)

    made = answer.json()
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"{ADMIN_SALES}/{made['id']}"
    assert (made["status"], made["phase"], made["units"], made["units_taken"]) == ("draft", "draft", 30, 0)
    assert (made["price_minor"], made["currency"], made["epoch"]) == (990, "EUR", 0)
    assert (made["units_per_user"], made["orders_per_user"], made["hold_seconds"]) == (1, 10, 900)
    assert (await (await shop.client()).get(f"/v1/seckill/sales/{made['id']}")).status_code == 404


async def test_a_draft_is_edited_freely(shop: Shop) -> None:
    """What is not named stays."""
    sale = await shop.draft_sale(units=10, stock=100)

    answer = await patch(shop, sale, {"units": 20, "price_minor": 1, "units_per_user": 5, "name": " Other "})

    edited = answer.json()
    assert answer.status_code == 200
    assert (edited["units"], edited["price_minor"], edited["units_per_user"]) == (20, 1, 5)
    assert (edited["name"], edited["hold_seconds"]) == ("Other", 900)
    assert await stock_of(shop, sale) == 100


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"units": 0}, "/units"),
        ({"units": -1}, "/units"),
        ({"units": 10**30}, "/units"),
        ({"units": 1.5}, "/units"),
        ({"units": "10"}, "/units"),
        ({"units": ...}, "/units"),
        ({"price_minor": -1}, "/price_minor"),
        ({"units_per_user": 0}, "/units_per_user"),
        ({"orders_per_user": 0}, "/orders_per_user"),
        ({"hold_seconds": 0}, "/hold_seconds"),
        ({"hold_seconds": 10**9}, "/hold_seconds"),
        ({"name": ""}, "/name"),
        ({"name": "a\0b"}, "/name"),
        ({"starts_at": "tomorrow"}, "/starts_at"),
        ({"starts_at": "2030-01-01T00:00:00"}, "/starts_at"),
        ({"ends_at": ...}, "/ends_at"),
        ({"stock_left": 1}, "/stock_left"),
        ({"starts_at": "2030-01-01T00:00:00Z", "ends_at": "2030-01-01T00:00:00Z"}, ""),
        ({"starts_at": "2030-01-02T00:00:00Z", "ends_at": "2030-01-01T00:00:00Z"}, ""),
    ],
    ids=str,
)
async def test_a_draft_that_breaks_a_rule_is_not_made(shop: Shop, changes: dict[str, Any], pointer: str) -> None:
    """422 that says which one."""
    document = problem_of(await post(shop, ADMIN_SALES, await wish(shop, **changes)), 422, "invalid")

    assert pointer in [violation["pointer"] for violation in document["errors"]]


async def test_a_draft_of_a_product_that_does_not_exist_is_not_made(shop: Shop) -> None:
    problem_of(await post(shop, ADMIN_SALES, await wish(shop, product_id=2**62)), 404, "not_found")


async def test_a_window_that_ends_before_it_starts_is_refused_at_every_door(shop: Shop) -> None:
    """When a draft is made, when it is edited with one end alone, and when the window of a sale is changed."""
    draft = await shop.draft_sale(starts_in=60)
    problem_of(await patch(shop, draft, {"ends_at": soon(30)}), 422, "invalid")
    problem_of(await patch(shop, draft, {"starts_at": soon(10_000)}), 422, "invalid")
    sale = await shop.open_sale(starts_in=60)
    problem_of(await shop.change(sale, "window", {"ends_at": soon(30)}), 422, "invalid")
    problem_of(await shop.change(sale, "window", {"starts_at": soon(9), "ends_at": soon(8)}), 422, "invalid")

    assert (await read(shop, draft))["ends_at"] == draft.ends_at.isoformat().replace("+00:00", "Z")
    assert (await shop.row(sale)).changes == 0


async def test_a_sale_cannot_have_more_units_than_its_product(shop: Shop) -> None:
    """409 at the schedule, and nothing was taken; with fewer units it works."""
    sale = await shop.draft_sale(units=11, stock=10)

    problem_of(await post(shop, f"{ADMIN_SALES}/{sale.id}/schedule"), 409, "not_enough_stock")
    assert (await stock_of(shop, sale), (await read(shop, sale))["status"]) == (10, "draft")

    await patch(shop, sale, {"units": 10})
    assert (await post(shop, f"{ADMIN_SALES}/{sale.id}/schedule")).status_code == 200
    assert await stock_of(shop, sale) == 0


async def test_a_sale_is_scheduled_once_however_many_try(shop: Shop) -> None:
    """409 for the others, and the units are taken once."""
    sale = await shop.draft_sale(units=10, stock=100)

    answers = await asyncio.gather(*(post(shop, f"{ADMIN_SALES}/{sale.id}/schedule") for _ in range(8)))

    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7
    problem_of(await post(shop, f"{ADMIN_SALES}/{sale.id}/schedule"), 409, "sale_state")
    assert await stock_of(shop, sale) == 90


async def test_two_sales_of_one_product_cannot_take_the_same_units(shop: Shop) -> None:
    """F34."""
    first = await shop.draft_sale(units=6, stock=10)
    second = (await post(shop, ADMIN_SALES, await wish(shop, product_id=first.product_id, units=6))).json()

    answers = await asyncio.gather(
        *(post(shop, f"{ADMIN_SALES}/{sale_id}/schedule") for sale_id in (first.id, second["id"]))
    )

    assert sorted(answer.status_code for answer in answers) == [200, 409]
    assert await stock_of(shop, first) == 4


async def test_a_window_that_is_over_cannot_be_scheduled(shop: Shop) -> None:
    sale = await shop.draft_sale(units=1, starts_in=-10, lasts=5)

    problem_of(await post(shop, f"{ADMIN_SALES}/{sale.id}/schedule"), 409, "sale_state")
    assert await stock_of(shop, sale) == 1


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("close", None),
        ("pause", None),
        ("resume", None),
        ("window", {"ends_at": "2040-01-01T00:00:00Z"}),
        ("stock", {"delta": 1}),
    ],
)
async def test_a_draft_is_edited_and_not_changed(shop: Shop, verb: str, body: dict[str, Any] | None) -> None:
    """409: numbered changes begin with the schedule."""
    sale = await shop.draft_sale(stock=100)

    problem_of(await shop.change(sale, verb, body), 409, "sale_state")
    assert (await shop.row(sale)).changes == 0


async def test_a_scheduled_sale_is_changed_and_not_edited(shop: Shop) -> None:
    """409: from then on the ledger has the rules."""
    sale = await shop.open_sale(units=5)

    problem_of(await patch(shop, sale, {"units": 50}), 409, "sale_state")
    assert (await read(shop, sale))["units"] == 5
