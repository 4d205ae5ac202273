"""Every query about sales, their epochs, changes and ledger rows."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, ColumnElement, DateTime, any_, case, func, literal, select, true, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from shop.bounds import TIME_MAX, TIME_MIN
from shop.sales.incidents.models import Recovery
from shop.sales.models import ChangeKind, LedgerRow, Sale, SaleChange, SaleEpoch, SaleStatus

ALIVE = (SaleStatus.SCHEDULED, SaleStatus.ENDED)
PUBLIC = (*ALIVE, SaleStatus.SETTLED)


def _readable(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """The column, with times that nobody could say (`infinity`, the year 20000) as the nearest that can be said."""
    if not isinstance(column.type, DateTime):
        return column
    first, last = literal(TIME_MIN, column.type), literal(TIME_MAX, column.type)
    return case((column < first, first), (column > last, last), else_=column).label(column.key)


# For those who only read: one row that somebody wrote by hand hides no other sale, nor itself.
READABLE = aliased(Sale, select(*map(_readable, Sale.__table__.columns)).subquery(), adapt_on_names=True)


class Entry(NamedTuple):
    """A ledger row as far as it must agree with the stream; `quarantined` is the raw entry that was quarantined."""

    order_id: UUID | None
    balance: int
    quarantined: dict[str, Any] | None = None


class LedgerName(NamedTuple):
    """Which ledger a sale has; once the sale is settled there is none any more."""

    sale_id: int
    epoch: int
    settled: bool


class AliveName(NamedTuple):
    """Which ledger an alive sale has, and how many recoveries it had."""

    sale_id: int
    epoch: int
    recovery: int


class Alive(NamedTuple):
    """A sale that has a ledger or should have one."""

    sale: Sale
    loaded: bool
    run_id: str | None
    recovering: bool
    has_open_changes: bool

    @property
    def name(self) -> AliveName:
        """Which ledger it has."""
        return AliveName(self.sale.id, self.sale.epoch, self.sale.recovery)

    @property
    def stopped(self) -> bool:
        """Whether an audit keeps it closed."""
        return self.sale.stopped_at is not None


async def database_time(session: AsyncSession) -> datetime:
    """Postgres time at the start of this transaction."""
    return (await session.execute(select(func.now()))).scalar_one()


async def find(session: AsyncSession, sale_id: int) -> Sale | None:
    """The sale."""
    return await session.get(Sale, sale_id)


async def read(session: AsyncSession, sale_id: int) -> Sale | None:
    """The sale, to read."""
    return (await session.execute(select(READABLE).where(READABLE.id == sale_id))).scalar_one_or_none()


async def read_each(
    session: AsyncSession, sale_ids: Collection[int], *, statuses: Sequence[SaleStatus]
) -> dict[int, tuple[Sale, datetime]]:
    """Those of these sales that have one of these statuses, to read, each with Postgres' time."""
    asked = READABLE.id == any_(literal(list(sale_ids), ARRAY(BigInteger)))
    query = select(READABLE, func.now()).where(asked, READABLE.status.in_(statuses))
    return {sale.id: (sale, now) for sale, now in await session.execute(query)}


async def lock(session: AsyncSession, sale_id: int) -> Sale | None:
    """The sale, with its row locked until the transaction ends."""
    return await session.get(Sale, sale_id, with_for_update=True, populate_existing=True)


async def page(
    session: AsyncSession, *, limit: int, starting_after: int | None, statuses: Sequence[SaleStatus] | None = None
) -> Sequence[Sale]:
    """Up to `limit` sales to read, the newest first."""
    query = select(READABLE).order_by(READABLE.id.desc()).limit(limit)
    if starting_after is not None:
        query = query.where(READABLE.id < starting_after)
    if statuses is not None:
        query = query.where(READABLE.status.in_(statuses))
    return (await session.execute(query)).scalars().all()


async def alive_names(session: AsyncSession) -> Sequence[AliveName]:
    """The sales that have a ledger, or should have one, whatever else their rows hold."""
    query = select(Sale.id, Sale.epoch, Sale.recovery).where(Sale.status.in_(ALIVE)).order_by(Sale.id)
    return [AliveName(*row) for row in await session.execute(query)]


async def alive(session: AsyncSession, sale_ids: Collection[int] | None = None) -> Sequence[Alive]:
    """The sales that have a ledger, or should have one, with what the controller asks of each: in one query.

    `sale_ids` leaves out all others.
    """
    changes = select(SaleChange.n).where(SaleChange.sale_id == Sale.id, SaleChange.outcome.is_(None)).exists()
    recovery = select(Recovery.n).where(Recovery.sale_id == Sale.id, Recovery.finished_at.is_(None)).exists()
    query = (
        select(Sale, SaleEpoch.loaded_at.is_not(None), SaleEpoch.run_id, recovery, changes)
        .join(SaleEpoch, (SaleEpoch.sale_id == Sale.id) & (SaleEpoch.epoch == Sale.epoch))
        .where(Sale.status.in_(ALIVE), true() if sale_ids is None else Sale.id.in_(sale_ids))
        .order_by(Sale.id)
    )
    return [Alive(*row) for row in await session.execute(query)]


async def find_epoch(session: AsyncSession, sale_id: int, epoch: int) -> SaleEpoch | None:
    """One epoch of a sale."""
    return await session.get(SaleEpoch, (sale_id, epoch))


async def ledgers(session: AsyncSession, sale_ids: Collection[int]) -> dict[int, LedgerName]:
    """The ledgers of those of these sales that exist."""
    found = await session.execute(select(Sale.id, Sale.epoch, Sale.status).where(Sale.id.in_(sale_ids)))
    return {sale_id: LedgerName(sale_id, epoch, status == SaleStatus.SETTLED) for sale_id, epoch, status in found}


async def mark_loaded(session: AsyncSession, sale_id: int, epoch: int, token: str, run_id: str) -> bool:
    """Record that this loader's ledger is complete, in this run of Redis; False when another one's is."""
    marked = await session.execute(
        update(SaleEpoch)
        .where(SaleEpoch.sale_id == sale_id, SaleEpoch.epoch == epoch, SaleEpoch.loaded_at.is_(None))
        .values(loaded_at=func.now(), token=token, run_id=run_id)
        .returning(SaleEpoch.epoch)
    )
    return marked.scalar_one_or_none() is not None


async def unmark_loaded(session: AsyncSession, sale_id: int, epoch: int, token: str) -> None:
    """Take back the mark of a loader whose ledger was started over by another one before it opened."""
    await session.execute(
        update(SaleEpoch)
        .where(SaleEpoch.sale_id == sale_id, SaleEpoch.epoch == epoch, SaleEpoch.token == token)
        .values(loaded_at=None, token=None, run_id=None)
    )


async def open_changes(session: AsyncSession, sale_id: int) -> Sequence[SaleChange]:
    """The changes that no event has closed yet, in order."""
    query = select(SaleChange).where(SaleChange.sale_id == sale_id, SaleChange.outcome.is_(None)).order_by(SaleChange.n)
    return (await session.execute(query)).scalars().all()


async def find_change(session: AsyncSession, sale_id: int, n: int) -> SaleChange | None:
    """One change of a sale."""
    return await session.get(SaleChange, (sale_id, n), populate_existing=True)


async def close_change(session: AsyncSession, sale_id: int, n: int, outcome: str) -> SaleChange | None:
    """Record what the ledger made of a change; None when it was closed before."""
    closed = await session.execute(
        update(SaleChange)
        .where(SaleChange.sale_id == sale_id, SaleChange.n == n, SaleChange.outcome.is_(None))
        .values(outcome=outcome, closed_at=func.now())
        .returning(SaleChange)
    )
    return closed.scalar_one_or_none()


async def last_closed_change(session: AsyncSession, sale_id: int) -> int:
    """The number of the last change that has its outcome; 0 when there is none."""
    query = select(func.coalesce(func.max(SaleChange.n), 0)).where(
        SaleChange.sale_id == sale_id, SaleChange.outcome.is_not(None)
    )
    return int((await session.execute(query)).scalar_one())


async def last_of(session: AsyncSession, sale_id: int, kinds: Sequence[ChangeKind]) -> SaleChange | None:
    """The last change of these kinds that was applied."""
    query = (
        select(SaleChange)
        .where(SaleChange.sale_id == sale_id, SaleChange.kind.in_(kinds), SaleChange.outcome == "applied")
        .order_by(SaleChange.n.desc())
        .limit(1)
    )
    return (await session.execute(query)).scalar_one_or_none()


async def granted_units(session: AsyncSession, sale_id: int) -> int:
    """Units that Postgres has granted to the sale and the ledger has not confirmed yet."""
    query = select(func.coalesce(func.sum(SaleChange.units_delta), 0)).where(
        SaleChange.sale_id == sale_id,
        SaleChange.kind == ChangeKind.UNITS,
        SaleChange.units_delta > 0,
        SaleChange.outcome.is_(None),
    )
    return (await session.execute(query)).scalar_one() or 0


async def ledger_entry(session: AsyncSession, sale_id: int, epoch: int, seq: int) -> Entry | None:
    """What Postgres recorded under this sequence number."""
    query = select(LedgerRow.order_id, LedgerRow.balance, LedgerRow.quarantined).where(
        LedgerRow.sale_id == sale_id, LedgerRow.epoch == epoch, LedgerRow.seq == seq
    )
    row = (await session.execute(query)).one_or_none()
    return Entry(*row) if row else None


async def last_reserved(session: AsyncSession, sale_id: int, epoch: int) -> tuple[UUID, int] | None:
    """The newest reservation of an epoch that is recorded: (order, seq)."""
    query = (
        select(LedgerRow.order_id, LedgerRow.seq)
        .where(
            LedgerRow.sale_id == sale_id,
            LedgerRow.epoch == epoch,
            LedgerRow.kind.in_(("reserved", "honoured")),
            LedgerRow.quarantined.is_(None),
        )
        .order_by(LedgerRow.seq.desc())
        .limit(1)
    )
    row = (await session.execute(query)).one_or_none()
    return (row[0], row[1]) if row and row[0] is not None else None


async def raise_alarm(session: AsyncSession, sale_id: int, reason: str) -> bool:
    """Note why a sale was stopped; the first reason stays. True when this is the first."""
    raised = await session.execute(
        update(Sale).where(Sale.id == sale_id, Sale.alarm.is_(None)).values(alarm=reason).returning(Sale.id)
    )
    return raised.scalar_one_or_none() is not None


async def update_sale(session: AsyncSession, sale_id: int, **values: Any) -> None:
    """Change columns of the sale's row."""
    await session.execute(update(Sale).where(Sale.id == sale_id).values(**values))
