"""What the recorded ledger tells of one moment of a sale; no query reads more than a bounded part of it."""

from collections.abc import Collection, Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import func, literal_column, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from shop.orders.batch import ORDER_KINDS
from shop.orders.models import Order
from shop.sales.models import LedgerPosition, LedgerRow

# Entries that one question reads at most, before or after the moment that it is about.
LEDGER_ROWS_MAX = 20_000


class MovedUnits(NamedTuple):
    """Units that came back or were added, and units that were sold, up to an entry of the ledger."""

    returned: int
    sold: int
    counted_to_seq: int
    complete: bool


async def entry(session: AsyncSession, sale_id: int, at: LedgerPosition) -> LedgerRow | None:
    """The entry at this position."""
    return await session.get(LedgerRow, (sale_id, at.epoch, at.seq))


async def ran_out(session: AsyncSession, sale_id: int, until: LedgerPosition) -> LedgerRow | None:
    """The first entry of the epoch, up to this one, that took the last unit. That a sale ended is none."""
    query = (
        select(LedgerRow)
        .where(
            LedgerRow.sale_id == sale_id,
            LedgerRow.epoch == until.epoch,
            LedgerRow.seq <= until.seq,
            # As in the partial index, which parameters would hide from the planner.
            literal_column("stock_ledger.balance = 0 AND stock_ledger.delta < 0"),
            LedgerRow.kind != "end",
        )
        .order_by(LedgerRow.seq)
        .limit(1)
    )
    return (await session.scalars(query)).one_or_none()


async def moved_after(session: AsyncSession, sale_id: int, after: LedgerPosition) -> MovedUnits:
    """What came back and what was sold after this position in the same epoch."""
    rows = (
        select(LedgerRow.seq, LedgerRow.kind, LedgerRow.delta)
        .where(LedgerRow.sale_id == sale_id, LedgerRow.epoch == after.epoch, LedgerRow.seq > after.seq)
        .order_by(LedgerRow.seq)
        .limit(LEDGER_ROWS_MAX)
        .subquery()
    )
    sold = rows.c.kind.in_(ORDER_KINDS)
    query = select(
        func.coalesce(func.sum(rows.c.delta).filter(rows.c.delta > 0), 0),
        func.coalesce(-func.sum(rows.c.delta).filter(sold), 0),
        func.coalesce(func.max(rows.c.seq), after.seq),
        func.count() < LEDGER_ROWS_MAX,
    ).select_from(rows)
    returned, units_sold, seq, complete = (await session.execute(query)).one()
    return MovedUnits(int(returned), int(units_sold), int(seq), bool(complete))


async def sold_by(session: AsyncSession, sale_id: int, until: LedgerPosition) -> bool:
    """Whether the sale had sold anything up to this position, in this epoch or before it."""
    query = (
        select(LedgerRow.seq)
        .where(
            LedgerRow.sale_id == sale_id,
            tuple_(LedgerRow.epoch, LedgerRow.seq) <= tuple_(until.epoch, until.seq),
            LedgerRow.kind == "reserved",
            LedgerRow.quarantined.is_(None),
        )
        # By the primary key, which stops at the first: what comes before it are changes of the sale, and few.
        .order_by(LedgerRow.epoch, LedgerRow.seq)
        .limit(1)
    )
    return (await session.execute(query)).first() is not None


async def next_of(session: AsyncSession, sale_id: int, after: LedgerPosition, kinds: Collection[str]) -> str | None:
    """Which of these kinds of entries comes first after this position; None when none does, as far as is read."""
    rows = (
        select(LedgerRow.seq, LedgerRow.kind)
        .where(LedgerRow.sale_id == sale_id, LedgerRow.epoch == after.epoch, LedgerRow.seq > after.seq)
        .where(LedgerRow.quarantined.is_(None))
        .order_by(LedgerRow.seq)
        .limit(LEDGER_ROWS_MAX)
        .subquery()
    )
    query = select(rows.c.kind).where(rows.c.kind.in_(kinds)).order_by(rows.c.seq).limit(1)
    return (await session.execute(query)).scalar_one_or_none()


async def last_of(session: AsyncSession, sale_id: int, until: LedgerPosition, kinds: Collection[str]) -> str | None:
    """Which of these kinds of entries came last up to this position; None when none did, as far as is read."""
    rows = (
        select(LedgerRow.seq, LedgerRow.kind)
        .where(LedgerRow.sale_id == sale_id, LedgerRow.epoch == until.epoch, LedgerRow.seq <= until.seq)
        .where(LedgerRow.quarantined.is_(None))
        .order_by(LedgerRow.seq.desc())
        .limit(LEDGER_ROWS_MAX)
        .subquery()
    )
    query = select(rows.c.kind).where(rows.c.kind.in_(kinds)).order_by(rows.c.seq.desc()).limit(1)
    return (await session.execute(query)).scalar_one_or_none()


async def orders_of(session: AsyncSession, sale_id: int, user_id: str, *, limit: int) -> Sequence[Order]:
    """Up to `limit` orders of a user in this sale, the oldest first."""
    query = (
        select(Order)
        .where(Order.user_id == user_id, Order.sale_id == sale_id)
        .order_by(Order.reserved_at, Order.id)
        .limit(limit)
    )
    return (await session.scalars(query)).all()


async def releases(session: AsyncSession, sale_id: int, order_ids: Sequence[UUID]) -> dict[UUID, LedgerPosition]:
    """Where the ledger took the units of these orders back; each does so once (I8)."""
    query = (
        select(LedgerRow.order_id, LedgerRow.epoch, LedgerRow.seq)
        .where(literal_column("stock_ledger.kind = 'released'"), LedgerRow.order_id.in_(order_ids))
        .where(LedgerRow.sale_id == sale_id)
        .limit(len(order_ids))
    )
    return {order_id: LedgerPosition(epoch, seq) for order_id, epoch, seq in await session.execute(query) if order_id}
