"""The units of ordinary orders: never one too many, and each back in stock once, whoever closes the order."""

import asyncio
import random
from collections import Counter
from uuid import UUID

import pytest
from sqlalchemy import func, update
from sqlalchemy.exc import IntegrityError

from shop.database import constraint_name
from shop.orders import repository
from shop.orders.expiry import expire_due
from shop.orders.life import By, move
from shop.orders.models import Order, OrderStatus
from shop.orders.release import owed_to_sales
from shop.products import repository as products
from tests.api.answers import problem_of
from tests.harness import Shop, new_user_id, wait_until
from tests.orders.catalogue import (
    cancel,
    let_hold_run_out,
    line,
    live_units,
    make_product,
    new_key,
    place,
    placed,
    read,
    stock,
)

BUYERS = 50
PAIRS = 20
STEPS = 60


async def moved(shop: Shop, order_id: str, to: OrderStatus, *, closes: bool | None = None) -> bool:
    async with shop.database.transaction() as session:
        return bool(await move(session, [UUID(order_id)], to, by=By.ADMIN, reason="a test", closes=closes))


async def test_the_last_units_of_two_products_are_sold_once_whatever_the_order_of_the_lines(shop: Shop) -> None:
    """50 buyers in both directions for 10 units of each: ten have both, nobody has one, nobody waits in a circle."""
    one, two = await make_product(shop, stock=10), await make_product(shop, stock=10)
    ways = [(line(one), line(two)), (line(two), line(one))]

    answers = await asyncio.gather(*(place(shop, new_user_id(), *ways[number % 2]) for number in range(BUYERS)))

    assert Counter(answer.status_code for answer in answers) == {201: 10, 409: BUYERS - 10}
    for answer in answers:
        if answer.status_code == 409:
            problem_of(answer, 409, "not_enough_stock")
    assert await stock(shop, one, two) == [0, 0]
    assert [await live_units(shop, product) for product in (one, two)] == [10, 10]


async def test_a_cancelled_order_is_back_in_stock_with_the_answer(shop: Shop) -> None:
    """Every line of it; no ledger is asked, and twice or at once is the same as once (I8)."""
    one, two, user = await make_product(shop), await make_product(shop), new_user_id()
    order = await placed(shop, user, line(one, 3), line(two, 4))

    answers = await asyncio.gather(*(cancel(shop, order["id"], user) for _ in range(10)))

    assert {(answer.status_code, answer.json()["status"]) for answer in answers} == {(200, "cancelled")}
    assert len({answer.text for answer in answers}) == 1
    cancelled = answers[0].json()
    assert cancelled["released_at"] == cancelled["closed_at"] is not None
    assert [entry["event"] for entry in cancelled["timeline"]] == ["reserved", "cancelled", "released"]
    assert await stock(shop, one, two) == [10, 10]


async def test_a_hold_that_has_run_out_is_expired_with_those_of_sales(shop: Shop) -> None:
    """One batch closes both: the ledger gets back what is a sale's, and only that, the stock the rest (F18)."""
    sale, product, user = await shop.open_sale(units=1), await make_product(shop), new_user_id()
    bought = await shop.bought(sale, user)
    await shop.drained(sale)
    order = await placed(shop, user, line(product, 4))
    await let_hold_run_out(shop, bought, order["id"])

    async def both_back() -> bool:
        found = [(await read(shop, order_id, user)).json() for order_id in (bought, order["id"])]
        return all(each["status"] == "expired" and each["released_at"] for each in found)

    await wait_until(both_back, reason="both orders are expired and released")
    assert await stock(shop, product) == [10]
    assert (await shop.audit(sale)).balanced
    late = problem_of(await cancel(shop, order["id"], user), 409, "order_closed")
    assert late["order_status"] == "expired"
    assert await stock(shop, product) == [10]


async def test_only_orders_of_sales_are_owed_to_a_ledger(shop: Shop) -> None:
    sale, product, user = await shop.open_sale(units=1), await make_product(shop), new_user_id()
    bought = await shop.bought(sale, user)
    await shop.drained(sale)
    order = await placed(shop, user, line(product))
    ids = [UUID(bought), UUID(order["id"])]

    async with shop.database.transaction() as session:
        closed = await move(session, ids, OrderStatus.CANCELLED, by=By.SHOP, reason="a test")
        owed, _ = await repository.owed(session, sale.id, limit=1_000)

    assert len(closed) == 2
    assert [each.order_id for each in owed_to_sales(closed)] == [UUID(bought)]
    assert [each.order_id for each in owed] == [UUID(bought)]
    assert await stock(shop, product) == [10]


async def test_a_cancellation_and_the_expiry_have_one_winner_who_gives_the_units_back(shop: Shop) -> None:
    """20 pairs, each started at once (I8)."""
    one, two = await make_product(shop, stock=PAIRS), await make_product(shop, stock=2 * PAIRS)
    users = [new_user_id() for _ in range(PAIRS)]
    orders = [(await placed(shop, user, line(two, 2), line(one)))["id"] for user in users]
    assert await stock(shop, one, two) == [0, 0]

    async def race(order_id: str, user: str) -> int:
        started = asyncio.Barrier(2)

        async def cancelled() -> int:
            await started.wait()
            return (await cancel(shop, order_id, user)).status_code

        async def expired() -> None:
            await started.wait()
            await expire_due(shop.database, shop.redis, shop.settings)

        await let_hold_run_out(shop, order_id)
        return (await asyncio.gather(cancelled(), expired()))[0]

    statuses = await asyncio.gather(*(race(*pair) for pair in zip(orders, users, strict=True)))

    found = [(await read(shop, *pair)).json() for pair in zip(orders, users, strict=True)]
    assert [order["status"] for order in found] == ["cancelled" if status == 200 else "expired" for status in statuses]
    assert set(statuses) <= {200, 409}
    assert await stock(shop, one, two) == [PAIRS, 2 * PAIRS]


async def test_the_units_of_a_refunded_order_go_back_only_with_a_restock(shop: Shop) -> None:
    product, user = await make_product(shop), new_user_id()
    kept, returned = [(await placed(shop, user, line(product, 3)))["id"] for _ in range(2)]
    for order_id in (kept, returned):
        assert await moved(shop, order_id, OrderStatus.PAID)
    assert await stock(shop, product) == [4]

    for _ in range(2):
        await moved(shop, kept, OrderStatus.REFUNDED)
        await moved(shop, returned, OrderStatus.REFUNDED, closes=True)

    assert await stock(shop, product) == [7]
    assert (await read(shop, kept, user)).json()["released_at"] is None
    assert (await read(shop, returned, user)).json()["released_at"] is not None


async def test_an_ordinary_order_cannot_be_closed_without_being_released(shop: Shop) -> None:
    """Whoever forgets it is refused by Postgres, so no units are lost in silence."""
    order = await placed(shop, new_user_id(), line(await make_product(shop)))
    forgetful = update(Order).where(Order.id == UUID(order["id"]))

    with pytest.raises(IntegrityError) as refused:
        async with shop.database.transaction() as session:
            await session.execute(forgetful.values(status=OrderStatus.CANCELLED, closed_at=func.now()))

    assert constraint_name(refused.value) == "ck_orders_ordinary_released"


async def test_a_closing_that_is_rolled_back_gives_nothing_back(shop: Shop) -> None:
    product, user = await make_product(shop), new_user_id()
    order = await placed(shop, user, line(product, 2))

    async def fail_after_closing() -> None:
        async with shop.database.transaction() as session:
            assert await move(session, [UUID(order["id"])], OrderStatus.CANCELLED, by=By.SHOP, reason="a test")
            raise InterruptedError

    with pytest.raises(InterruptedError):
        await fail_after_closing()

    assert await stock(shop, product) == [8]
    assert (await cancel(shop, order["id"], user)).status_code == 200
    assert await stock(shop, product) == [10]


async def test_a_sale_is_recorded_while_an_ordinary_order_holds_its_product(shop: Shop) -> None:
    """The persister's lines refer to the product, and must not wait for whoever orders it."""
    sale = await shop.open_sale(units=1)
    async with shop.database.transaction() as session:
        assert await products.lock(session, [sale.product_id])
        assert (await shop.buy(sale)).status_code == 202
        row = await shop.drained(sale)

    assert row.units_taken == 1


@pytest.mark.parametrize("seed", range(2))
async def test_after_any_mix_of_orders_and_closings_every_unit_is_in_stock_or_in_a_live_order(
    shop: Shop, seed: int
) -> None:
    """Conservation: placing, repeating, cancelling and expiring at once, over the same few products."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    goods = [await make_product(shop, stock=units) for units in (5, 20, 60)]
    user, orders = new_user_id(), list[str]()
    outcomes: Counter[int] = Counter()

    async def act() -> None:
        for _ in range(STEPS):
            match dice.choice(["place", "place", "place", "cancel", "expire"]):
                case "place":
                    lines = [line(product, dice.randint(1, 4)) for product in dice.sample(goods, dice.randint(1, 3))]
                    key = new_key()
                    for answer in await asyncio.gather(*(place(shop, user, *lines, key=key) for _ in range(2))):
                        outcomes[answer.status_code] += 1
                        orders.extend([answer.json()["id"]] if answer.status_code == 201 else [])
                case "cancel" if orders:
                    outcomes[(await cancel(shop, dice.choice(orders), user)).status_code] += 1
                case "expire" if orders:
                    await let_hold_run_out(shop, *dice.sample(orders, min(3, len(orders))))
                    await expire_due(shop.database, shop.redis, shop.settings)

    await asyncio.gather(*(act() for _ in range(4)))

    assert set(outcomes) <= {200, 201, 409}
    assert outcomes[201] > STEPS / 4
    in_stock, live = await stock(shop, *goods), [await live_units(shop, product) for product in goods]
    assert [one + other for one, other in zip(in_stock, live, strict=True)] == [5, 20, 60]
    assert min(in_stock) >= 0
