"""What a ledger and its rows show by themselves: whether they are drained, and what went back or was sold wrongly."""

from collections.abc import Iterable, Mapping

import redis.asyncio as aioredis
from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from shop.database import Database
from shop.ledger import client as ledger
from shop.orders.models import Order
from shop.sales import repository
from shop.sales.incidents import repository as recoveries
from shop.sales.models import LedgerRow, SaleChange, SaleStatus


async def is_drained(database: Database, client: aioredis.Redis, sale_id: int) -> bool:
    """Whether all that the ledger of a sale has is recorded, and no recovery is under way."""
    async with database.transaction() as session:
        sale = await repository.find(session, sale_id)
        recovering = await recoveries.unfinished(session, sale_id)
    if sale is None or recovering is not None:
        return False
    if sale.status == SaleStatus.SETTLED:
        return True
    state = await ledger.read_state(client, sale_id, sale.epoch)
    return state is not None and state.seq == sale.watermark


async def released_wrongly(session: AsyncSession, sale_id: int) -> int:
    """I8: orders whose units went back more than once, or that are not closed."""
    releases = (
        select(LedgerRow.order_id, func.count().label("times"))
        .where(LedgerRow.sale_id == sale_id, LedgerRow.kind == "released")
        .group_by(LedgerRow.order_id)
        .subquery()
    )
    wrong = or_(releases.c.times > 1, Order.closed_at.is_(None), Order.released_at.is_(None))
    query = select(func.count()).select_from(releases).join(Order, Order.id == releases.c.order_id).where(wrong)
    return int((await session.execute(query)).scalar_one())


def sold_while_closed(rows: Iterable[LedgerRow], changes: Mapping[int, SaleChange]) -> list[str]:
    """I10: reservations between a pause and the next resume, or after the end, by the ledger's own order.

    What a recovery brings back is exempt, and a new epoch begins with nothing known: it settles changes without events.
    """
    found, epoch, paused, ended = [], 0, False, False
    for row in rows:
        if row.epoch != epoch:
            epoch, paused = row.epoch, False
        change = changes.get(row.change_n or 0)
        if change is not None and change.outcome == "applied":
            paused = row.kind == "pause" or (paused and row.kind != "resume")
            ended = ended or row.kind == "end"
        elif row.kind == "reserved" and (paused or ended):
            found.append(f"entry {row.seq} of epoch {row.epoch} was sold while the sale was closed")
    return found
