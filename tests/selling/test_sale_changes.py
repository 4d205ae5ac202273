"""Changes of a sale that come at the wrong moment: the ledger decides, and no unit is lost or made up."""

from pathlib import Path

from sqlalchemy import select

from shop.auth import CONTROLLER
from shop.products.models import Product
from shop.sales import service
from shop.sales.models import ChangeKind
from shop.sales.repository import find_change, raise_alarm
from shop.settings import Settings
from shop.worker import running_worker
from tests.harness import TESTER, Shop, wait_until
from tests.processes import own_shop


async def test_units_that_the_ledger_refuses_are_back_in_the_product(fresh_settings: Settings, tmp_path: Path) -> None:
    """Postgres grants first, and the sale ends before the ledger hears of it (I3)."""
    async with own_shop(fresh_settings, tmp_path) as own:
        shop = own.shop
        async with running_worker(shop.settings):
            sale = await shop.open_sale(units=2, stock=10)
        async with shop.database.transaction() as session:
            await service.close(session, TESTER, sale.id)
            await service.end_or_settle(session, CONTROLLER, sale.id, ChangeKind.END)
            late = await service.change_units(session, TESTER, sale.id, delta=5)

        async with running_worker(shop.settings):

            async def in_stock() -> int:
                async with shop.database.transaction() as session:
                    query = select(Product.stock).where(Product.id == sale.product_id)
                    return (await session.execute(query)).scalar_one()

            async def all_back() -> bool:
                return await in_stock() == 10

            await wait_until(all_back, reason="all units are in the product's stock")
        async with shop.database.transaction() as session:
            change = await find_change(session, sale.id, late.n)
        assert change is not None
        assert change.outcome == "ended"


async def test_a_sale_that_an_alarm_has_stopped_is_not_resumed(shop: Shop) -> None:
    """What it would promise could not be recorded; the alarm is told, and nothing is numbered."""
    sale = await shop.open_sale(units=2)
    assert (await shop.change(sale, "pause")).status_code == 200
    async with shop.database.transaction() as session:
        assert await raise_alarm(session, sale.id, "entry 7 cannot be recorded")

    refused = await shop.change(sale, "resume")

    assert refused.status_code == 409
    assert "entry 7" in refused.json()["detail"]
    assert (await shop.row(sale)).changes == 1
