"""What a purchase has left: in the ledger of its sale, and as a row."""

from uuid import UUID

from shop.ledger import client as ledger
from shop.orders import repository as orders
from shop.orders.models import Order
from shop.sales.models import Sale
from tests.harness import Shop


async def state_of(shop: Shop, sale: Sale) -> ledger.LedgerState:
    """The sale's ledger now."""
    row = await shop.row(sale)
    state = await ledger.read_state(shop.redis, sale.id, row.epoch)
    assert state is not None
    return state


async def row_of(shop: Shop, order_id: str, user_id: str) -> Order | None:
    """The order's row, if it has one."""
    async with shop.database.transaction() as session:
        return await orders.find(session, UUID(order_id), user_id)
