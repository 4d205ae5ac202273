"""What Postgres has recorded of a sale, as the judges read it."""

from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from loadtests.judge.operations import Entry, Rules
from shop.ledger.order_ids import ids_of_sale
from shop.orders.models import Order, OrderLine
from shop.sales.models import LedgerRow, Sale, SaleEpoch

ROWS_PER_FETCH = 10_000


class Row(NamedTuple):
    """An order. `line_quantity` is the sum over its lines, `replaces` the order whose late money paid this one."""

    user_id: str
    quantity: int
    line_quantity: int
    status: str
    live: bool
    replaces: str | None


async def rows_of_sale(session: AsyncSession, sale_id: int) -> dict[str, Row]:
    """Every order of a sale by its id."""
    ids = ids_of_sale(sale_id)
    statement = (
        select(
            Order.id,
            Order.user_id,
            Order.quantity,
            func.coalesce(func.sum(OrderLine.quantity), 0),
            Order.status,
            Order.released_at.is_(None),
            Order.replaces,
        )
        .outerjoin(OrderLine, OrderLine.order_id == Order.id)
        .where(Order.id.between(ids.first, ids.last))
        .group_by(Order.id)
        .execution_options(yield_per=ROWS_PER_FETCH)
    )
    rows: dict[str, Row] = {}
    result = await session.stream(statement)
    async for fetched in result.partitions(ROWS_PER_FETCH):
        for order_id, user_id, quantity, line_quantity, status, live, replaces in fetched:
            replaced = str(replaces) if replaces else None
            rows[str(order_id)] = Row(user_id, quantity, line_quantity, status, live, replaced)
    return rows


async def entries_of(session: AsyncSession, sale_id: int) -> list[Entry]:
    """Every row of a sale's ledger, in order."""
    query = (
        select(LedgerRow)
        .where(LedgerRow.sale_id == sale_id)
        .order_by(LedgerRow.epoch, LedgerRow.seq)
        .execution_options(yield_per=ROWS_PER_FETCH)
    )
    rows = await session.stream_scalars(query)
    return [
        Entry(
            sale_id,
            row.epoch,
            row.seq,
            row.kind,
            None if row.order_id is None else str(row.order_id),
            row.user_id,
            row.quantity,
            row.delta,
            row.balance,
            row.quarantined is not None,
        )
        async for row in rows
    ]


async def rules_of(session: AsyncSession, sale_id: int) -> Rules:
    """What a sale allows. Raises sqlalchemy.exc.NoResultFound when there is no such sale."""
    sale = await session.get_one(Sale, sale_id)
    epochs = await session.execute(
        select(SaleEpoch.epoch, SaleEpoch.opening_balance).where(SaleEpoch.sale_id == sale_id)
    )
    openings = {epoch: opening for epoch, opening in epochs}  # noqa: C416 - rows are not pairs to dict()
    return Rules(sale.units_per_user, sale.orders_per_user, openings, await _given_back(session, sale_id))


async def _given_back(session: AsyncSession, sale_id: int) -> dict[str, int]:
    """The orders that were released in the transaction that began an epoch: both have its time."""
    ids = ids_of_sale(sale_id)
    query = (
        select(Order.id, SaleEpoch.epoch)
        .join(SaleEpoch, (SaleEpoch.sale_id == sale_id) & (SaleEpoch.created_at == Order.released_at))
        .where(Order.id.between(ids.first, ids.last))
    )
    return {str(order_id): epoch for order_id, epoch in await session.execute(query)}
