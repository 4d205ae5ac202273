"""Units that come back: each once, whoever closes the order and whatever is lost on the way."""

import asyncio
import random
from collections import Counter
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from sqlalchemy import func, select, update

from loadtests.chaos import LoseReply, LoseRequest, chaos_proxy
from shop.orders.expiry import expire_due
from shop.orders.models import Order, OrderStatus
from shop.orders.persister import Persister
from shop.orders.release import release, sweep
from shop.orders.repository import Owed
from shop.products.models import Product
from shop.sales import repository as sales
from shop.sales import service
from shop.sales.changes import apply_open_changes
from shop.sales.models import Sale
from shop.settings import Settings
from shop.worker import running_worker
from tests.harness import TESTER, Shop, new_user_id, outcome, running_shop, wait_until
from tests.orders.holds import available, close_by_hand, orders_of, releases, until_released
from tests.processes import call_of, copy_of, own_shop

PAIRS = 50
PAIRS_AT_ONCE = 5
CHANGES = 200
SOLD_MIN = 10


async def stock(shop: Shop, sale: Sale) -> int:
    """The units in stock of the sale's product."""
    async with shop.database.transaction() as session:
        return (await session.execute(select(Product.stock).where(Product.id == sale.product_id))).scalar_one()


async def until_changed(shop: Shop, sale: Sale) -> None:
    """Wait until the ledger has answered every change of the sale."""

    async def all_answered() -> bool:
        async with shop.database.transaction() as session:
            return not await sales.open_changes(session, sale.id)

    await wait_until(all_answered, reason="every change is answered")


async def cancel(shop: Shop, order_id: object, user_id: str) -> httpx.Response:
    """Cancel over HTTP."""
    client = await shop.client()
    return await client.post(f"/v1/orders/{order_id}/cancel", headers=shop.headers(user_id))


async def test_a_hold_expires_by_postgres_time_and_gives_units_and_limit_back(shop: Shop) -> None:
    """Nobody has to do anything; the buyer who let it expire may buy again (F18, F24)."""
    sale = await shop.open_sale(units=1, hold_seconds=1)
    assert outcome(await shop.buy(sale, "slow-payer")) == "reserved"
    assert outcome(await shop.buy(sale)) == "sold_out"

    await shop.drained(sale)
    await until_released(shop, sale)

    (order,) = await orders_of(shop, sale)
    assert order.status == OrderStatus.EXPIRED
    assert order.closed_at
    assert order.closed_at >= order.expires_at
    assert (order.expires_at - order.recorded_at).total_seconds() == 1
    assert await available(shop, sale) == 1
    too_late = await cancel(shop, order.id, "slow-payer")
    assert (too_late.status_code, too_late.json()["code"]) == (409, "order_closed")
    assert outcome(await shop.buy(sale, "slow-payer")) == "reserved"


async def test_a_release_that_was_lost_is_swept_once(shop: Shop) -> None:
    """The closed row is the outbox: whoever crashed between commit and release loses nothing (F19, F23)."""
    sale = await shop.open_sale(units=3)
    await shop.rush(sale, buyers=3)
    await shop.drained(sale)

    owed = await close_by_hand(shop, sale)
    given = await asyncio.gather(
        *(sweep(shop.database, shop.redis, shop.settings) for _ in range(3)),
        *(release(shop.database, shop.redis, owed, shop.settings) for _ in range(3)),
    )

    assert sum(given) <= 3
    await until_released(shop, sale)
    await shop.drained(sale)
    assert await releases(shop, sale) == Counter(each.order_id for each in owed)
    assert await available(shop, sale) == 3
    assert (await shop.audit(sale)).balanced


async def test_the_worker_sweeps_by_itself(shop: Shop) -> None:
    """Nobody asks for it; a lost hint is made good by the next run (I12, F41)."""
    sale = await shop.open_sale(units=1)
    await shop.buy(sale)
    await shop.drained(sale)
    await close_by_hand(shop, sale)

    await until_released(shop, sale)

    assert await available(shop, sale) == 1


async def test_a_cancellation_and_the_expiry_have_one_winner_and_one_release(shop: Shop) -> None:
    """50 pairs, each started at once: the compare-and-set decides, and units go back exactly once (I8, F23)."""
    sale = await shop.open_sale(units=PAIRS)
    users = [new_user_id() for _ in range(PAIRS)]
    bought = [(await answer).json()["id"] for answer in [shop.buy(sale, user_id) for user_id in users]]
    await shop.drained(sale)

    async def race(order_id: str, user_id: str) -> int:
        started = asyncio.Barrier(2)

        async def cancelled() -> int:
            await started.wait()
            return (await cancel(shop, order_id, user_id)).status_code

        async def expired() -> None:
            await started.wait()
            await expire_due(shop.database, shop.redis, shop.settings)

        async with shop.database.transaction() as session:
            await session.execute(update(Order).where(Order.id == UUID(order_id)).values(expires_at=func.now()))
        status, _ = await asyncio.gather(cancelled(), expired())
        return status

    statuses: dict[str, int] = {}
    pairs = list(zip(bought, users, strict=True))
    for start in range(0, PAIRS, PAIRS_AT_ONCE):
        at_once = pairs[start : start + PAIRS_AT_ONCE]
        answers = await asyncio.gather(*(race(*pair) for pair in at_once))
        statuses.update(zip((order_id for order_id, _ in at_once), answers, strict=True))

    await until_released(shop, sale)
    await shop.drained(sale)
    rows = await orders_of(shop, sale)
    assert {str(row.id): row.status for row in rows} == {
        order_id: OrderStatus.CANCELLED if status == 200 else OrderStatus.EXPIRED
        for order_id, status in statuses.items()
    }
    assert set(statuses.values()) <= {200, 409}
    assert await releases(shop, sale) == Counter(row.id for row in rows)
    assert await available(shop, sale) == PAIRS
    assert (await shop.audit(sale)).balanced


async def test_units_that_came_back_and_were_sold_again_are_recorded_in_one_batch(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """Their events meet in one batch of a sold-out sale: the guard judges what is left after all of them (I4, I12)."""
    async with own_shop(fresh_settings, tmp_path) as own:
        shop, user_id = own.shop, new_user_id()
        async with running_worker(shop.settings):
            sale = await shop.open_sale(units=1)
            order_id = await shop.bought(sale, user_id)
            await shop.drained(sale)
        client = await shop.client()
        assert (await client.post(f"/v1/orders/{order_id}/cancel", headers=shop.headers(user_id))).status_code == 200
        await shop.buys(sale)

        assert await Persister(shop.database, shop.redis, sale.id, shop.settings, asyncio.Event()).step()

        row = await shop.row(sale)
        assert (row.watermark, row.units_taken, row.units) == (3, 1, 1)


async def test_units_released_after_the_end_go_to_the_product(shop: Shop) -> None:
    """The sale is over, so its units are stock again; the unsold ones went there at its end (design §2)."""
    sale = await shop.open_sale(units=5, stock=7)
    orders = [await shop.bought(sale, user_id) for user_id in ("late-ann", "late-bob")]
    await shop.drained(sale)
    assert (await shop.change(sale, "close")).json()["outcome"] == "applied"

    async def in_stock(units: int) -> None:
        async def reached() -> bool:
            return await stock(shop, sale) == units

        await wait_until(reached, reason=f"{units} units are in stock")

    await in_stock(7 - 2)
    assert (await cancel(shop, orders[0], "late-ann")).status_code == 200
    await in_stock(7 - 1)
    row = await shop.drained(sale)
    assert (row.units, row.units_taken) == (1, 1)
    assert (await shop.audit(sale)).balanced
    assert (await cancel(shop, orders[1], "late-bob")).status_code == 200
    await in_stock(7)

    async def settled() -> bool:
        return (await shop.row(sale)).status == "settled"

    await wait_until(settled, reason="the sale is settled")
    report = await shop.audit(sale)
    assert (report.balanced, report.units, report.available) == (True, 0, 0)


async def test_units_that_are_owed_to_a_settled_sale_go_to_the_product_once(shop: Shop) -> None:
    """No ledger is there to count them: the row does, however many give them back at once (I8)."""
    sale = await shop.open_sale(units=2)
    assert [outcome(await shop.buy(sale)) for _ in range(2)] == ["reserved"] * 2
    await shop.drained(sale)
    order, kept = await orders_of(shop, sale)
    of_order = update(Order).where(Order.id == order.id)
    async with shop.database.transaction() as session:
        await session.execute(update(Order).where(Order.id.in_([order.id, kept.id])).values(status=OrderStatus.PAID))
    assert (await shop.change(sale, "close")).status_code == 200

    async def settled() -> bool:
        return (await shop.row(sale)).status == "settled"

    await wait_until(settled, reason="the sale is settled")
    async with shop.database.transaction() as session:
        await session.execute(of_order.values(status=OrderStatus.REFUNDED, closed_at=func.now()))
    owed = [Owed(order.id, sale.id, order.seq or 0)]
    await asyncio.gather(*(release(shop.database, shop.redis, owed, shop.settings) for _ in range(3)))

    row = await shop.row(sale)
    assert (await stock(shop, sale), row.units, row.units_taken) == (1, 1, 1)
    assert (await shop.audit(sale)).balanced


async def test_a_change_of_units_that_is_sent_again_applies_once(shop: Shop) -> None:
    """Its number makes the repeat harmless, also when several send it at once (faults 25)."""
    sale = await shop.open_sale(units=10, stock=15)
    async with shop.database.transaction() as session:
        change = await service.change_units(session, TESTER, sale.id, delta=5)

    outcomes = await asyncio.gather(
        *(apply_open_changes(shop.database, shop.redis, sale.id, 1, shop.settings) for _ in range(5))
    )

    assert sum(change.n in each for each in outcomes) <= 1
    row = await shop.drained(sale)
    assert (row.units, await available(shop, sale), await stock(shop, sale)) == (15, 15, 0)
    assert (await shop.audit(sale)).balanced


@pytest.mark.parametrize("reply_only", [True, False], ids=["reply", "request"])
async def test_a_change_of_units_whose_exchange_was_lost_applies_once(shop: Shop, *, reply_only: bool) -> None:
    """The admin learns the outcome from the row, which the drained event or the controller's next try closes."""
    sale = await shop.open_sale(units=10, stock=15)
    async with (
        chaos_proxy(shop.settings.redis_url) as proxy,
        running_shop(copy_of(shop.settings, redis_url=proxy.url), worker=False) as behind_proxy,
    ):
        await proxy.be(LoseReply(call_of("change")) if reply_only else LoseRequest(call_of("change")))
        answer = await behind_proxy.change(sale, "stock", {"delta": 5})

    assert (answer.status_code, proxy.injected) in {(200, 1), (202, 1)}
    await until_changed(shop, sale)
    row = await shop.drained(sale)
    assert (row.units, await available(shop, sale), await stock(shop, sale)) == (15, 15, 0)
    assert (await shop.audit(sale)).balanced


async def test_200_changes_of_units_while_selling_keep_every_unit(shop: Shop) -> None:
    """Units move by differences alone, and never below what is taken (F35, faults 25)."""
    dice = random.Random(25)  # noqa: S311 - no secret
    sale = await shop.open_sale(units=50, stock=200)
    taken: list[tuple[str, str]] = []
    refused: Counter[str] = Counter()

    async def change() -> None:
        for _ in range(CHANGES // 4):
            answer = await shop.change(sale, "stock", {"delta": dice.choice([-9, -4, -1, 1, 3, 6])})
            if answer.status_code not in {200, 202}:  # 202 is applied a moment later
                refused[answer.json()["reason"] if "reason" in answer.json() else answer.json()["code"]] += 1

    async def trade() -> None:
        for _ in range(60):
            user_id = new_user_id()
            answer = await shop.buy(sale, user_id)
            if answer.status_code == 202:
                taken.append((answer.json()["id"], user_id))
            if len(taken) > SOLD_MIN and dice.random() < 0.4:
                chosen = taken.pop(dice.randrange(len(taken)))
                if (await cancel(shop, *chosen)).status_code != 200:  # not recorded yet
                    taken.append(chosen)

    await asyncio.gather(*(change() for _ in range(4)), *(trade() for _ in range(3)))

    async def all_back() -> bool:
        return len([order for order in await orders_of(shop, sale) if not order.released_at]) == len(taken)

    await wait_until(all_back, reason="the units of the cancelled orders are back")
    await until_changed(shop, sale)
    row = await shop.drained(sale)
    report = await shop.audit(sale)
    assert report.balanced, report.violations
    assert row.units_taken == len(taken)
    assert row.units >= row.units_taken
    assert row.units + await stock(shop, sale) == 200
    assert row.changes == CHANGES - refused["not_enough_stock"]
    assert set(refused) <= {"too_few_units", "not_enough_stock"}
