"""A sale's window lies between the years 2000 and 9000, and all that is said and reckoned of it holds up to there."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from shop.products import repository as products
from shop.refusal import RETRY_AFTER_SECONDS_MAX
from shop.sales import repository
from tests.api.answers import problem_of
from tests.harness import Shop, new_user_id, wait_until

LAST_DAY = datetime(8999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)
INT4_MAX = 2**31 - 1


@pytest.mark.parametrize("beyond", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.9999999Z"])
async def test_a_window_beyond_the_horizon_is_refused_and_leaves_the_sale_as_it_was(shop: Shop, beyond: str) -> None:
    """A zero time and a greatest time, as libraries of clients send them; the next change is a change as any other."""
    sale = await shop.open_sale(starts_in=60.0)

    for name in ("starts_at", "ends_at"):
        problem_of(await shop.change(sale, "window", {name: beyond}), 422, "invalid")
    moved = await shop.change(sale, "window", {"ends_at": LAST_DAY.isoformat()})

    assert (moved.json()["n"], moved.json()["outcome"]) == (1, "applied")


@pytest.mark.parametrize("body", [{}, {"starts_at": None}, {"starts_at": None, "ends_at": None}])
async def test_a_window_without_a_time_is_no_change(shop: Shop, body: dict[str, None]) -> None:
    sale = await shop.open_sale()

    problem_of(await shop.change(sale, "window", body), 422, "invalid")

    assert (await shop.row(sale)).changes == 0


async def test_an_edit_that_names_nothing_is_not_recorded(shop: Shop) -> None:
    draft = await shop.draft_sale()
    client = await shop.client()
    events = text("SELECT count(*) FROM admin_events WHERE subject = 'sale' AND subject_id = :id")

    for body in ({}, {"name": None, "ends_at": None}):
        answer = await client.patch(f"/v1/admin/sales/{draft.id}", headers=shop.admin_headers(), json=body)
        assert answer.status_code == 200

    async with shop.database.transaction() as session:
        assert (await session.execute(events, {"id": str(draft.id)})).scalar_one() == 1


async def test_a_sale_until_the_horizon_sells_as_any_other(shop: Shop) -> None:
    """Its end has more digits than Lua writes by itself."""
    sale = await shop.open_sale(starts_in=-86_400.0, lasts=(LAST_DAY - datetime.now(UTC)).total_seconds())
    user = new_user_id()

    order_id = await shop.bought(sale, user)
    await shop.drained(sale)

    client = await shop.client()
    seen = (await client.get(f"/v1/seckill/sales/{sale.id}")).json()
    order = (await client.get(f"/v1/orders/{order_id}", headers=shop.headers(user))).json()
    assert (seen["phase"], seen["ends_at"][:4]) == ("open", "8999")
    assert datetime.fromisoformat(order["expires_at"]) < datetime.now(UTC) + timedelta(hours=1)
    assert (await shop.audit(sale)).balanced
    assert (await shop.change(sale, "close")).json()["outcome"] == "applied"


async def test_a_sale_that_starts_near_the_horizon_says_when_and_asks_nobody_to_wait_so_long(shop: Shop) -> None:
    sale = await shop.open_sale()
    later = await shop.open_sale(starts_in=60.0)
    starts_at = LAST_DAY - timedelta(days=1)
    window = {"starts_at": starts_at.isoformat(), "ends_at": LAST_DAY.isoformat()}
    assert (await shop.change(later, "window", window)).json()["outcome"] == "applied"

    document = problem_of(answer := await shop.buy(later), 403, "sale_not_started")

    assert datetime.fromisoformat(document["starts_at"]) == starts_at
    assert 1 <= int(answer.headers["retry-after"]) <= RETRY_AFTER_SECONDS_MAX + 3
    assert (await shop.buy(sale)).status_code == 202


@pytest.mark.parametrize("values", ["ends_at = 'infinity'", "starts_at = '-infinity'", "ends_at = '9001-01-01'"])
async def test_postgres_itself_keeps_times_beyond_the_horizon_out(shop: Shop, values: str) -> None:
    sale = await shop.draft_sale()

    with pytest.raises(IntegrityError, match="ck_sales_horizon"):
        async with shop.database.transaction() as session:
            await session.execute(text(f"UPDATE sales SET {values} WHERE id = :id"), {"id": sale.id})  # noqa: S608


async def test_what_a_sale_gives_back_fits_into_the_stock_however_much_there_is(shop: Shop) -> None:
    """Twelve sales of a hundred million each may end unsold at once, beside a stock that was filled up meanwhile."""
    sale = await shop.open_sale(units=10)
    async with shop.database.transaction() as session:
        await products.give_stock(session, sale.product_id, INT4_MAX)

    await shop.change(sale, "close")

    async def credited() -> int | None:
        async with shop.database.transaction() as session:
            product = await products.find(session, sale.product_id)
            row = await repository.find(session, sale.id)
        assert product is not None
        assert row is not None
        return product.stock if row.alarm is None and product.stock > INT4_MAX else None

    assert await wait_until(credited, reason="the units are back") == INT4_MAX + 10
