"""A list has each row that is asked for once, in one order, whatever the size of its pages, and says what is wrong."""

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import text

from shop.database import Database
from shop.paging import ListQuery
from tests.api.answers import problem_of
from tests.api.listing.filters import LISTS, Listed
from tests.harness import Shop, new_key

BY_NAME = {listed.name: listed for listed in LISTS}
PATHS = {"orders": "orders", "payments": "payments", "users": "users", "admin_events": "events"}
KEYS = {"orders": "id", "payments": "order_id", "users": "id", "admin_events": "id"}
LATE = "2026-01-01T05:32:00Z"  # the last 80 of the 20,000 seconds
SALE_OF_1, LINE = "sale_id IN (1, 2)", "EXISTS (SELECT FROM order_lines WHERE order_id = id AND product_id = {})"
MISMATCH = "intent_id IN (SELECT intent_id FROM provider_events WHERE outcome = 'mismatch')"


def test_every_list_with_filters_is_tried_here_with_its_plan() -> None:
    assert {listed.asked for listed in LISTS} == set(ListQuery.__subclasses__())


async def walked(database: Database, listed: Listed, question: dict[str, object], limit: int) -> list[object]:
    """The ids of all pages."""
    found: list[object] = []
    async with database.transaction() as session:
        while True:
            after = {"starting_after": found[-1]} if found else {}
            asked = listed.asked.model_validate({**question, **after, "limit": limit})
            rows: Sequence[Any] = await listed.page(session, asked)
            rows = [row[0] if listed.name == "payments" else row for row in rows]
            found += [getattr(row, KEYS[listed.name]) for row in rows[:limit]]
            if len(rows) <= limit:
                return found


@pytest.mark.parametrize(
    ("name", "question", "where"),
    [
        ("orders", {"created_from": LATE}, f"reserved_at >= '{LATE}'"),
        ("orders", {"created_from": LATE, "status": "paid"}, f"reserved_at >= '{LATE}' AND status = 'paid'"),
        ("orders", {"created_from": LATE, "sale_id": 1}, f"reserved_at >= '{LATE}' AND sale_id = 1"),
        ("orders", {"created_from": LATE, "of_sale": False}, f"reserved_at >= '{LATE}' AND sale_id IS NULL"),
        ("orders", {"created_from": LATE, "of_sale": True}, f"reserved_at >= '{LATE}' AND sale_id IS NOT NULL"),
        ("orders", {"created_from": LATE, "product_id": 1}, f"reserved_at >= '{LATE}' AND {SALE_OF_1}"),
        ("orders", {"created_from": LATE, "product_id": 3}, f"reserved_at >= '{LATE}' AND {LINE.format(3)}"),
        ("orders", {"product_id": 4}, LINE.format(4)),
        ("orders", {"product_id": 4, "status": "refunded"}, f"{LINE.format(4)} AND status = 'refunded'"),
        ("orders", {"product_id": 4, "sale_id": 1}, "false"),
        ("orders", {"status": "refunded", "of_sale": True}, "status = 'refunded' AND sale_id IS NOT NULL"),
        ("orders", {"status": "reserved", "of_sale": True}, "status = 'reserved' AND sale_id IS NOT NULL"),
        ("orders", {"replacement": True}, "replaces IS NOT NULL"),
        ("orders", {"created_from": LATE, "replacement": False}, f"reserved_at >= '{LATE}' AND replaces IS NULL"),
        ("orders", {"user_id": "u7", "of_sale": True}, "user_id = 'u7' AND sale_id IS NOT NULL"),
        ("payments", {"created_from": LATE}, f"created_at >= '{LATE}'"),
        ("payments", {"currency": "JPY"}, "currency = 'JPY'"),
        ("payments", {"unsettled": True}, "captured_at IS NOT NULL AND settled_at IS NULL"),
        ("payments", {"created_from": LATE, "unsettled": False}, f"created_at >= '{LATE}'"),
        ("payments", {"mismatch": True}, MISMATCH),
        ("payments", {"user_id": "u7"}, "order_id IN (SELECT id FROM orders WHERE user_id = 'u7')"),
        ("users", {"created_from": LATE}, f"created_at >= '{LATE}'"),
        ("users", {"blocked": True}, "blocked_at IS NOT NULL"),
        ("users", {"role": "admin"}, "role = 'admin'"),
        ("users", {"email": " USER77@example.com "}, "email = 'user77@example.com'"),
        ("admin_events", {"created_from": LATE}, f"created_at >= '{LATE}'"),
        ("admin_events", {"actor_id": "rare"}, "actor_id = 'rare'"),
        ("admin_events", {"action": "user.role"}, "action = 'user.role'"),
        ("admin_events", {"subject": "product", "subject_id": "7"}, "subject = 'product' AND subject_id = '7'"),
    ],
    ids=str,
)
async def test_the_pages_of_a_list_are_all_that_is_asked_for_the_newest_first(
    many: Database, name: str, question: dict[str, object], where: str
) -> None:
    at = "reserved_at" if name == "orders" else "created_at"
    plain = f"SELECT {KEYS[name]} FROM {name} WHERE {where} ORDER BY {at} DESC, {KEYS[name]} DESC"  # noqa: S608
    async with many.transaction() as session:
        expected = list((await session.execute(text(plain))).scalars())

    assert await walked(many, BY_NAME[name], question, 7) == expected
    assert await walked(many, BY_NAME[name], question, 100) == expected


@pytest.mark.parametrize(
    ("more", "where"), [({}, "true"), ({"blocked": False}, "blocked_at IS NULL"), ({"role": "admin"}, "role = 'admin'")]
)
async def test_accounts_with_a_beginning_are_in_the_order_of_their_addresses(
    many: Database, more: dict[str, object], where: str
) -> None:
    plain = f"SELECT id FROM users WHERE email LIKE 'user199%' AND {where} ORDER BY email COLLATE \"C\""  # noqa: S608
    async with many.transaction() as session:
        expected = list((await session.execute(text(plain))).scalars())

    assert await walked(many, BY_NAME["users"], {"email_prefix": "USER199", **more}, 7) == expected


@pytest.mark.parametrize("name", PATHS)
async def test_a_question_that_a_list_does_not_know_is_invalid(shop: Shop, name: str) -> None:
    client, admin = await shop.client(), shop.admin_headers()
    cursor = {"orders": "00000000-0000-8000-8000-00000000dead", "users": "nobody-at-all", "admin_events": "999999999"}
    wrong: list[dict[str, str]] = [
        {"limit": "0"},
        {"limit": "101"},
        {"limit": "two"},
        {"starting_after": cursor.get(name, cursor["orders"])},
        {"starting_after": "}{"},
        {"created_from": "yesterday"},
        {"created_from": "0001-01-01T00:00:00Z"},
        {"created_before": "9999-12-31T23:59:59Z"},
        {"created_from": "2030-01-02T00:00:00Z", "created_before": "2030-01-01T00:00:00Z"},
        {"filter_that_is_not_there": "1"},
        {"status": "lost"} if name in {"orders", "payments"} else {"role": "king"},
        {"user_id": "a}b"} if name in {"orders", "payments"} else {"created_from": ""},
    ]
    for question in wrong:
        answer = await client.get(f"/v1/admin/{PATHS[name]}", headers=admin, params=question)
        problem_of(answer, 422, "invalid")


async def test_a_list_names_its_next_page_with_its_filters_and_tells_no_secret(shop: Shop) -> None:
    """An order of the catalogue, seen in every list; each row says what it is and in which currency its sums are."""
    client, admin = await shop.client(), shop.admin_headers()
    product, buyer = await shop.make_product(stock=10), await shop.sign_up()
    user_id = (await client.get("/v1/me", headers=buyer)).json()["id"]
    for _ in range(3):
        wish = {"lines": [{"product_id": product.id, "quantity": 2}]}
        placed = await client.post("/v1/orders", headers={**buyer, "Idempotency-Key": new_key()}, json=wish)
        assert placed.status_code == 201, placed.text
    await client.post(f"/v1/admin/users/{user_id}/sign-out", headers=admin)

    seen, url = [], f"/v1/admin/orders?limit=2&product_id={product.id}&status=reserved"
    while url:
        page = await client.get(url, headers=admin)
        assert (page.status_code, page.json()["object"]) == (200, "list")
        seen += page.json()["data"]
        url = page.links["next"]["url"] if "next" in page.links else ""
        assert bool(url) == page.json()["has_more"]
        assert not url or f"product_id={product.id}" in url
    assert len({order["id"] for order in seen}) == 3
    assert {(order["object"], order["currency"], order["user_id"]) for order in seen} == {("order", "EUR", user_id)}
    line = {"product_id": product.id, "quantity": 2, "price_minor": 990, "currency": "EUR"}
    assert [order["lines"] for order in seen] == [[line]] * 3

    users = await client.get("/v1/admin/users", headers=admin, params={"limit": 1})
    assert users.json()["data"][0].keys() == {"object", "id", "email", "role", "created_at", "blocked_at"}
    events = await client.get("/v1/admin/events", headers=admin, params={"subject": "user", "subject_id": user_id})
    assert [(each["object"], each["action"]) for each in events.json()["data"]] == [("admin_event", "user.signed_out")]
    payments = await client.get("/v1/admin/payments", headers=admin, params={"user_id": user_id})
    assert (payments.json()["object"], payments.json()["data"]) == ("list", [])
