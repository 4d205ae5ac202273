"""The recovery's queries about orders: which promises have a row, and which orders a new ledger begins with."""

from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Select, distinct, func, literal, select, tuple_, union_all, update
from sqlalchemy.ext.asyncio import AsyncSession

from shop.ledger.client import LedgerOrder
from shop.ledger.order_ids import ids_of_sale
from shop.orders.models import Order
from shop.sales.incidents.models import ClaimOutcome, Recovery, RecoveryAnswer, RecoveryClaim
from shop.sales.models import LedgerRow, Sale
from shop.sales.repository import ALIVE


class Need(StrEnum):
    """What a recovery has to do for a sale."""

    RECOVERY = "recovery"  # It is not finished.
    CLAIMS = "claims"  # Some came after it.
    RESTORE = "restore"  # Units are held back for receipts that nobody can show any more.


class Unpersisted(NamedTuple):
    """Reservations without a row: their units, and how many of the lost events of the old epoch they explain."""

    units: int
    explains: int


def _of_sale(sale_id: int) -> ColumnElement[bool]:
    """Says where the orders of a sale lie, so that no plan, however bad the statistics, reads those of all others."""
    ids = ids_of_sale(sale_id)
    return Order.id.between(ids.first, ids.last)


def _row_of_claim(sale_id: int) -> Select[UUID]:
    return select(Order.id).where(_of_sale(sale_id), Order.id == RecoveryClaim.order_id)


async def counts(session: AsyncSession, sale_id: int) -> tuple[int, int]:
    """How many orders a sale has, and how many buyers."""
    query = select(func.count(), func.count(distinct(Order.user_id))).where(_of_sale(sale_id))
    orders, buyers = (await session.execute(query)).one()
    return int(orders), int(buyers)


async def page(
    session: AsyncSession, sale_id: int, *, after: UUID | None, limit: int
) -> list[tuple[bytes, LedgerOrder]]:
    """The orders of a sale as entries of its ledger, by id: with the number that each was reserved under."""
    query = (
        select(Order.id, Order.user_id, Order.quantity, Order.seq, Order.reserved_at, Order.released_at.is_(None))
        .where(_of_sale(sale_id))
        .order_by(Order.id)
        .limit(limit)
    )
    if after is not None:
        query = query.where(Order.id > after)
    return [
        (order_id.bytes, LedgerOrder(user_id, quantity, seq or 0, round(reserved_at.timestamp() * 1000), held))
        for order_id, user_id, quantity, seq, reserved_at, held in await session.execute(query)
    ]


async def without_row(session: AsyncSession, order_ids: Sequence[UUID]) -> set[UUID]:
    """Those of these orders that Postgres does not know."""
    known = select(Order.id).where(Order.id.in_(list(order_ids)))
    return set(order_ids) - set((await session.execute(known)).scalars())


async def reopen_claims(session: AsyncSession, sale_id: int) -> None:
    """Open the claims again that were honoured in a ledger which is lost, and that were not recorded before."""
    honoured = (RecoveryClaim.sale_id == sale_id) & (RecoveryClaim.outcome == ClaimOutcome.HONOURED)
    statement = update(RecoveryClaim).where(honoured, ~_row_of_claim(sale_id).exists()).values(outcome=None)
    await session.execute(statement.execution_options(synchronize_session=False))


async def sort_claims(session: AsyncSession, sale_id: int) -> None:
    """Close the claims that need nothing: those with a row, and those whose entry was quarantined."""
    mine = RecoveryClaim.sale_id == sale_id
    quarantined = (
        select(LedgerRow.seq)
        .where(
            LedgerRow.sale_id == sale_id,
            LedgerRow.order_id == RecoveryClaim.order_id,
            LedgerRow.quarantined.is_not(None),
        )
        .exists()
    )
    for condition, outcome in (
        (RecoveryClaim.outcome.is_(None) & _row_of_claim(sale_id).exists(), ClaimOutcome.RECORDED),
        (RecoveryClaim.outcome.is_(None) & quarantined, ClaimOutcome.QUARANTINED),
    ):
        statement = update(RecoveryClaim).where(mine, condition).values(outcome=outcome)
        await session.execute(statement.execution_options(synchronize_session=False))


async def unpersisted(session: AsyncSession, sale: Sale) -> Unpersisted:
    """The reported reservations that are to be honoured: neither recorded nor quarantined."""
    of_epoch = (RecoveryClaim.epoch == sale.epoch) & (RecoveryClaim.seq > sale.watermark)
    query = select(
        func.coalesce(func.sum(RecoveryClaim.quantity), 0),
        func.count(distinct(RecoveryClaim.seq)).filter(of_epoch),
    ).where(RecoveryClaim.sale_id == sale.id, RecoveryClaim.outcome.is_(None))
    units, explains = (await session.execute(query)).one()
    return Unpersisted(int(units), int(explains))


async def release_owed(session: AsyncSession, sale_id: int) -> dict[UUID, int]:
    """Mark the units of every closed order of a sale as given back; each order that was not released yet, with them."""
    released = await session.execute(
        update(Order)
        .where(_of_sale(sale_id), Order.closed_at.is_not(None), Order.released_at.is_(None))
        .values(released_at=func.now())
        .returning(Order.id, Order.quantity)
        .execution_options(synchronize_session=False)
    )
    return {order_id: quantity for order_id, quantity in released}  # noqa: C416 - rows are not pairs to dict()


async def highest_seq_seen(session: AsyncSession, recovery: Recovery) -> int:
    """The highest sequence number of the old epoch that a process or a claim knows.

    A claim of an order that was recorded in an earlier epoch, which somebody has asked for again, has a number of that.
    """
    answered = select(func.max(RecoveryAnswer.highest_seq)).where(
        RecoveryAnswer.sale_id == recovery.sale_id, RecoveryAnswer.n == recovery.n
    )
    has_earlier_row = _row_of_claim(recovery.sale_id).where(Order.epoch != RecoveryClaim.epoch).exists()
    claimed = select(func.max(RecoveryClaim.seq)).where(
        RecoveryClaim.sale_id == recovery.sale_id, RecoveryClaim.epoch == recovery.from_epoch, ~has_earlier_row
    )
    query = select(func.coalesce(func.greatest(answered.scalar_subquery(), claimed.scalar_subquery()), 0))
    return int((await session.execute(query)).scalar_one())


async def pending(session: AsyncSession, sale_id: int, *, before_epoch: int, limit: int) -> Sequence[RecoveryClaim]:
    """Claims of earlier epochs that wait for their answer."""
    query = (
        select(RecoveryClaim)
        .where(RecoveryClaim.sale_id == sale_id, RecoveryClaim.outcome.is_(None), RecoveryClaim.epoch < before_epoch)
        .order_by(tuple_(RecoveryClaim.epoch, RecoveryClaim.order_id))
        .limit(limit)
    )
    return (await session.execute(query)).scalars().all()


async def sales_in_need(session: AsyncSession, *, window_seconds: int) -> Sequence[tuple[int, Need]]:
    """Each sale that a recovery has work with, and what work; receipts are honoured for `window_seconds` after it."""
    unfinished = select(Recovery.sale_id, _named(Need.RECOVERY)).where(Recovery.finished_at.is_(None))
    late_claims = (
        select(Sale.id, _named(Need.CLAIMS))
        .join(RecoveryClaim, RecoveryClaim.sale_id == Sale.id)
        .where(Sale.status.in_(ALIVE), RecoveryClaim.outcome.is_(None), RecoveryClaim.epoch < Sale.epoch)
        .distinct()
    )
    in_window = (
        select(Recovery.n)
        .where(
            Recovery.sale_id == Sale.id,
            Recovery.finished_at.is_(None) | (Recovery.finished_at > func.now() - timedelta(seconds=window_seconds)),
        )
        .exists()
    )
    held_back = select(Sale.id, _named(Need.RESTORE)).where(Sale.status.in_(ALIVE), Sale.held_back > 0, ~in_window)
    found = await session.execute(union_all(unfinished, late_claims, held_back))
    return [(sale_id, Need(need)) for sale_id, need in found]


def _named(need: Need) -> ColumnElement[str]:
    return literal(need.value).label("need")
