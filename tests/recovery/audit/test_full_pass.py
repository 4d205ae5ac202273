"""The audit sees each violation as what it is, and changes nothing."""

from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import Executable, Uuid, bindparam, delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from shop.ledger.keys import ledger_keys
from shop.ledger.order_ids import ids_of_sale
from shop.orders.models import Order, OrderLine
from shop.sales.models import LedgerRow, Sale
from shop.settings import Settings
from shop.worker import running_worker
from tests.harness import Shop, new_user_id, outcome
from tests.lua.ledgers import command, everything
from tests.orders.holds import close_by_hand
from tests.processes import own_shop


async def violated(shop: Shop, sale: Sale) -> list[str]:
    """The invariants that do not hold."""
    return [name for name, holds in (await shop.audit(sale)).invariants.items() if not holds]


async def lose_a_row(session: AsyncSession, sale: Sale) -> None:
    await session.execute(delete(LedgerRow).where(LedgerRow.sale_id == sale.id, LedgerRow.seq == 1))


async def write_a_balance(session: AsyncSession, sale: Sale) -> None:
    row = (LedgerRow.sale_id == sale.id, LedgerRow.seq == 1)
    await session.execute(update(LedgerRow).where(*row).values(balance=LedgerRow.balance - 1))


async def lose_a_unit(session: AsyncSession, sale: Sale) -> None:
    await session.execute(update(Sale).where(Sale.id == sale.id).values(units=Sale.units + 1))


async def count_too_few(session: AsyncSession, sale: Sale) -> None:
    await session.execute(update(Sale).where(Sale.id == sale.id).values(units_taken=Sale.units_taken - 1))


async def give_one_user_both_orders(session: AsyncSession, sale: Sale) -> None:
    user = select(Order.user_id).where(Order.sale_id == sale.id).limit(1).scalar_subquery()
    await session.execute(update(Order).where(Order.sale_id == sale.id).values(user_id=user))


ORDER, OTHER = bindparam("order", type_=Uuid()), bindparam("other", type_=Uuid())

WRONG = {
    "I1": lose_a_row,
    "I2": write_a_balance,
    "I3": lose_a_unit,
    "I4": count_too_few,
    "I5": give_one_user_both_orders,
}
# Without a row the next balance follows from none, and its unit is not counted; an order of another is not as promised.
SEEN = {name: [name] for name in WRONG} | {"I1": ["I1", "I2", "I3"], "I5": ["I5", "I6"]}


@pytest.mark.parametrize("name", WRONG)
async def test_what_is_wrong_in_postgres_is_seen_by_its_name(shop: Shop, name: str) -> None:
    sale = await shop.open_sale(units=5)
    for _ in range(2):
        assert outcome(await shop.buy(sale)) == "reserved"
    await shop.drained(sale)
    assert await violated(shop, sale) == []

    async with shop.database.transaction() as session:
        await WRONG[name](session, sale)

    assert await violated(shop, sale) == SEEN[name]


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        (delete(OrderLine).where(OrderLine.order_id == ORDER), "I6: 1 orders have no line"),
        (update(OrderLine).where(OrderLine.order_id == ORDER).values(order_id=OTHER), "I6: 1 lines have no order"),
    ],
    ids=["an order without a line", "a line without an order"],
)
async def test_an_order_and_its_line_are_there_together(shop: Shop, statement: Executable, sentence: str) -> None:
    """No foreign key says it: that would cost a batch a quarter of its time."""
    sale = await shop.open_sale(units=5)
    order_id = UUID((await shop.buy(sale)).json()["id"])
    await shop.drained(sale)
    assert (await shop.audit(sale)).violations == []

    async with shop.database.transaction() as session:
        await session.execute(statement, {"order": order_id, "other": ids_of_sale(sale.id).last})

    assert sentence in (await shop.audit(sale)).violations


async def test_the_audit_of_a_sale_whose_orders_are_on_their_way_is_balanced_and_changes_nothing(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """It never sets anything right (F6); orders that are closed and not released count until their units are back."""
    async with own_shop(fresh_settings, tmp_path) as own:
        shop = own.shop
        async with running_worker(shop.settings):
            sale = await shop.open_sale(units=5)
            assert outcome(await shop.buy(sale, new_user_id())) == "reserved"
            await shop.drained(sale)
        assert outcome(await shop.buy(sale, new_user_id())) == "reserved"
        await close_by_hand(shop, sale)
        before = await everything(shop.redis)

        report = await shop.audit(sale)

        assert (report.balanced, report.undrained, report.available, report.closing) == (True, 1, 4, 1)
        assert await everything(shop.redis) == before

        await command(shop.redis, "HINCRBY", ledger_keys(sale.id, 1).sale, "available", 1)
        before = await everything(shop.redis)
        assert await violated(shop, sale) == ["I2"]
        assert await everything(shop.redis) == before
