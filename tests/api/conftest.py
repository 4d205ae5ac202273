"""The tests of the API share one running shop; each leaves it with no more sales to look after than it found."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import func, select, update

from shop.orders.models import Order, OrderStatus
from shop.sales import service
from shop.sales.models import Sale, SaleStatus
from tests.harness import TESTER, Shop


@pytest.fixture(autouse=True)
async def retired_sales(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Close the sales that the test has scheduled, and let them settle behind its back."""
    if "live_shop" not in request.fixturenames:
        yield
        return
    shop: Shop = request.getfixturevalue("live_shop")
    async with shop.database.transaction() as session:
        last_before = await session.scalar(select(func.coalesce(func.max(Sale.id), 0)))
    yield
    async with shop.database.transaction() as session:
        made = select(Sale.id).where(Sale.id > last_before)
        # A paid order is one that needs no more looking after.
        paid = update(Order).where(Order.sale_id.in_(made), Order.status == OrderStatus.RESERVED)
        await session.execute(paid.values(status=OrderStatus.PAID))
        for sale_id in list(await session.scalars(made.where(Sale.status == SaleStatus.SCHEDULED))):
            await service.close(session, TESTER, sale_id)
