"""The money report is the sum of all payments at one moment, and costs the same however many there were."""

import asyncio
import random
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from shop.database import Database, see_one_moment
from shop.errors import NotReady
from shop.payments.totals import repository
from shop.payments.totals.counting import COUNTED_AT_ONCE, count_money
from shop.payments.totals.repository import Money, count_batch, money
from tests.plans import nodes, plans_of, rows_read

PAYMENTS = 60
STEPS = 15
WRITERS = 4
OLDER = 6_000
# The marked payments, and what belongs to each; far less than the tables have.
ROWS_READ_MAX = OLDER // 20

OF_ORDERS = """INSERT INTO orders (id, user_id, status, quantity, total_minor, currency, reserved_at, recorded_at,
        expires_at)
    SELECT ('00000000-0000-8000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'u' || n, :status, 1, n,
        (ARRAY['EUR', 'JPY', 'BIF'])[1 + n % 3], now(), now(), now() + interval '1 hour'
    FROM generate_series(1, :count) n"""
WANTED = """INSERT INTO payments (order_id, status, amount_minor, currency)
    SELECT id, 'wanted', total_minor, currency FROM orders"""
PAID = """INSERT INTO payments (order_id, status, amount_minor, currency, captured_at, settled_at, paid_order_id)
    SELECT id, 'captured', total_minor, currency, now(), now(), id FROM orders"""
RETURNED = """INSERT INTO refunds (payment_id, status, amount_minor, reason)
    SELECT order_id, 'done', amount_minor, '' FROM payments"""
ANALYZE = "ANALYZE orders, payments, refunds"

# What can happen to a payment, right and wrong: each is one transaction, under the payment's lock.
HAPPENINGS = (
    ("UPDATE payments SET status = 'captured', captured_at = now() WHERE order_id = :id",),
    (
        "UPDATE orders SET status = 'paid', closed_at = NULL, released_at = NULL WHERE id = :id",
        "UPDATE payments SET status = 'captured', captured_at = now(), settled_at = now(), paid_order_id = order_id"
        " WHERE order_id = :id",
    ),
    (
        "UPDATE orders SET status = 'refunded' WHERE id = :id",
        "INSERT INTO refunds (payment_id, status, amount_minor, reason)"
        " SELECT order_id, 'pending', amount_minor, '' FROM payments WHERE order_id = :id ON CONFLICT DO NOTHING",
    ),
    ("UPDATE refunds SET status = 'done' WHERE payment_id = :id",),
    ("UPDATE refunds SET status = 'taken_back' WHERE payment_id = :id",),
    ("UPDATE refunds SET amount_minor = amount_minor + 1 WHERE payment_id = :id",),
    ("DELETE FROM refunds WHERE payment_id = :id",),
    ("UPDATE orders SET status = 'expired', closed_at = now(), released_at = now() WHERE id = :id",),
    ("UPDATE orders SET status = 'paid', closed_at = NULL, released_at = NULL WHERE id = :id",),
    ("UPDATE payments SET settled_at = now(), paid_order_id = NULL WHERE order_id = :id AND captured_at IS NOT NULL",),
)

# The sum over everything, written as I11 says it.
IN_FULL = """SELECT p.currency,
    coalesce(sum(amount) FILTER (WHERE captured), 0),
    coalesce(sum(amount) FILTER (WHERE paid_order_id IS NOT NULL AND refund IS NULL), 0),
    coalesce(sum(amount) FILTER (WHERE refund = 'done'), 0),
    coalesce(sum(amount) FILTER (WHERE refund = 'pending'), 0),
    coalesce(sum(amount) FILTER (WHERE refund = 'taken_back'), 0),
    coalesce(sum(amount) FILTER (WHERE captured AND settled_at IS NULL AND refund IS NULL), 0),
    count(*) FILTER (WHERE (paid_order_id IS NOT NULL AND refund IS NULL AND paid != 'paid')
        OR (refund IS NOT NULL AND paid = 'paid')
        OR (refund IS NOT NULL AND (NOT captured OR refund_minor != amount))
        OR (settled_at IS NOT NULL AND paid_order_id IS NULL AND refund IS NULL))
    FROM (SELECT payments.*, payments.amount_minor AS amount, captured_at IS NOT NULL AS captured,
            refunds.status AS refund, refunds.amount_minor AS refund_minor, orders.status AS paid
        FROM payments LEFT JOIN refunds ON payment_id = order_id LEFT JOIN orders ON orders.id = paid_order_id) p
    GROUP BY currency ORDER BY currency"""


async def _in_full(session: AsyncSession) -> list[Money]:
    return [Money(currency, *map(int, sums)) for currency, *sums in await session.execute(text(IN_FULL))]


async def _are_equal(database: Database) -> None:
    async with database.transaction() as session:
        await see_one_moment(session)
        assert await money(session) == await _in_full(session)


async def _make(database: Database, count: int, *, paid: bool = False) -> None:
    async with database.transaction() as session:
        await session.execute(text(OF_ORDERS), {"count": count, "status": "paid" if paid else "reserved"})
        await session.execute(text(PAID if paid else WANTED))


async def _happen(database: Database, number: int, chance: random.Random) -> None:
    order_id = UUID(f"00000000-0000-8000-8000-{number:012x}")
    async with database.transaction() as session:
        await session.execute(text("SELECT 1 FROM payments WHERE order_id = :id FOR UPDATE"), {"id": order_id})
        for statement in chance.choice(HAPPENINGS):
            await session.execute(text(statement), {"id": order_id})


async def test_the_report_is_the_sum_of_all_payments_whenever_they_were_counted(database: Database) -> None:
    """Not at all, in part, twice, by two workers at once; and whatever happened since."""
    chance = random.Random(24)  # noqa: S311 - no secret
    await _make(database, PAYMENTS)
    for _ in range(STEPS):
        for _ in range(4):
            await _happen(database, chance.randint(1, PAYMENTS), chance)
        await _are_equal(database)
        match chance.randrange(3):
            case 0:
                async with database.transaction() as session:
                    await count_batch(session, limit=5)
            case 1:
                await asyncio.gather(count_money(database), count_money(database))
        await _are_equal(database)

    await count_money(database)

    assert await count_money(database) == 0
    await _are_equal(database)


async def test_the_report_is_of_one_moment_while_money_moves_and_is_counted(database: Database) -> None:
    await _make(database, PAYMENTS)
    moving = True

    async def writer(number: int) -> None:
        chance = random.Random(number)  # noqa: S311 - no secret
        for _ in range(STEPS * 2):
            await _happen(database, chance.randint(1, PAYMENTS), chance)

    async def counter() -> int:
        counted = 0
        while moving:
            async with database.transaction() as session:
                counted += await count_batch(session, limit=7)
        return counted

    async def reader() -> None:
        while moving:
            await _are_equal(database)

    counting = [asyncio.create_task(counter()) for _ in range(2)]
    reading = asyncio.create_task(reader())
    try:
        await asyncio.gather(*map(writer, range(WRITERS)))
    finally:
        moving = False
    counted = await asyncio.gather(*counting)
    await reading

    assert sum(counted) > PAYMENTS
    await count_money(database)
    async with database.transaction() as session:
        totals_now = await session.execute(text("SELECT * FROM money_totals ORDER BY currency"))
        assert [Money(currency, *map(int, sums)) for currency, *sums in totals_now] == await _in_full(session)


async def test_a_shop_with_a_past_has_no_report_until_it_is_counted_and_then_reads_what_is_new(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an upgrade. Postgres' statistics may still say that every payment is to be counted."""
    monkeypatch.setattr(repository, "UNCOUNTED_MAX", OLDER - 1)
    await _make(database, OLDER, paid=True)
    async with database.transaction() as session:
        await session.execute(text(RETURNED))
        await session.execute(text(ANALYZE))
        with pytest.raises(NotReady):
            await money(session)

    assert await count_money(database) == OLDER
    for number in (1, 2, 3):
        await _happen(database, number, random.Random(number))  # noqa: S311 - no secret

    for _ in range(2):
        async with database.transaction() as session:
            assert await money(session) == await _in_full(session)
            await _bounded(session)
            await session.rollback()  # to explain a count is to count again
            await session.execute(text(ANALYZE))


async def _bounded(session: AsyncSession) -> None:
    """No query of the report, and none of the count, reads more than what is marked."""
    plans = await plans_of(session, money)
    plans += await plans_of(session, lambda session: count_batch(session, limit=COUNTED_AT_ONCE))
    whole = [node for plan in plans for node in nodes(plan) if node["Node Type"] == "Seq Scan"]
    assert {node["Relation Name"] for node in whole} <= {"money_totals"}
    assert max(map(rows_read, plans)) <= ROWS_READ_MAX
