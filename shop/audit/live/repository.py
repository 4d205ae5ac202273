"""The queries of the audit that goes on: what there is to verify, how far it is, and what it found."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ARRAY, BigInteger, Integer, func, literal, select, true, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from shop.admin_events import record_admin_event
from shop.audit.invariants import Position
from shop.audit.models import AuditFinding, SaleAudit
from shop.auth import CONTROLLER
from shop.sales import repository as sales
from shop.sales.incidents.models import Recovery
from shop.sales.models import ChangeKind, Sale, SaleChange, SaleEpoch, SaleStatus

ALARM_LENGTH_MAX = 500


class Watched(NamedTuple):
    """An alive sale as Postgres has it, beside how far it is verified; `position` is None where nobody has begun."""

    sale_id: int
    epoch: int
    watermark: int
    balance: int
    units_taken: int
    held_back: int
    units: int
    """What the ledger has confirmed."""
    suspended: bool
    """Not loaded yet, in recovery, or stopped by an alarm: there is nothing to verify."""
    checked_at: datetime | None
    position: Position | None

    @property
    def is_verified(self) -> bool:
        """Whether Postgres is where it was verified, to the last number."""
        now = self.position
        return now is not None and (self.watermark, self.balance, self.units_taken, self.held_back, self.units) == (
            now.seq,
            now.balance,
            now.units_taken,
            now.held_back,
            now.balance + now.units_taken + now.held_back + now.quarantined,
        )


async def watched(session: AsyncSession, sale_ids: Collection[int] | None = None) -> tuple[datetime, list[Watched]]:
    """All alive sales in one query, or these, and the moment at which it saw them."""
    granted = (
        select(func.coalesce(func.sum(SaleChange.units_delta), 0))
        .where(
            SaleChange.sale_id == Sale.id,
            SaleChange.outcome.is_(None),
            SaleChange.kind == ChangeKind.UNITS,
            SaleChange.units_delta > 0,
        )
        .scalar_subquery()
    )
    recovery = select(Recovery.n).where(Recovery.sale_id == Sale.id, Recovery.finished_at.is_(None)).exists()
    query = (
        select(
            func.now(),
            Sale.id,
            Sale.epoch,
            Sale.watermark,
            Sale.watermark_balance,
            Sale.units_taken,
            Sale.held_back,
            Sale.units - granted,
            SaleEpoch.loaded_at.is_(None) | Sale.alarm.is_not(None) | recovery,
            SaleAudit.checked_at,
            *(getattr(SaleAudit, name) for name in _SUMS),
        )
        .join(SaleEpoch, (SaleEpoch.sale_id == Sale.id) & (SaleEpoch.epoch == Sale.epoch))
        .outerjoin(SaleAudit, (SaleAudit.sale_id == Sale.id) & (SaleAudit.epoch == Sale.epoch))
        .where(Sale.status.in_(sales.ALIVE), true() if sale_ids is None else Sale.id.in_(sale_ids))
        .order_by(Sale.id)
    )
    rows = (await session.execute(query)).all()
    at = rows[0][0] if rows else await sales.database_time(session)
    return at, [Watched(*row[1:10], position=_position(row[2], row[10:])) for row in rows]


_SUMS = ("verified_seq", "balance", "units_taken", "held_back", "quarantined")


def _position(epoch: int, sums: Sequence[int | None]) -> Position | None:
    return Position(epoch, *(int(value or 0) for value in sums)) if sums[0] is not None else None


async def find_position(session: AsyncSession, sale_id: int, epoch: int) -> Position | None:
    """How far an epoch is verified."""
    query = select(*(getattr(SaleAudit, name) for name in _SUMS)).where(
        SaleAudit.sale_id == sale_id, SaleAudit.epoch == epoch
    )
    row = (await session.execute(query)).one_or_none()
    return None if row is None else _position(epoch, row)


async def begin(session: AsyncSession, sale_id: int, position: Position) -> None:
    """Verify from here on, unless somebody has begun."""
    values = {"sale_id": sale_id, "epoch": position.epoch, **_sums(position)}
    await session.execute(insert(SaleAudit).values(values).on_conflict_do_nothing())


def _sums(position: Position) -> dict[str, int]:
    return {
        "verified_seq": position.seq,
        "balance": position.balance,
        "units_taken": position.units_taken,
        "held_back": position.held_back,
        "quarantined": position.quarantined,
    }


async def advance(session: AsyncSession, sale_id: int, seen: Position, to: Position, *, at: datetime | None) -> bool:
    """Compare and set: the ledger is verified up to `to`. False when somebody was faster.

    `at` is the moment of the snapshot, if the whole sale was good in it.
    """
    advanced = await session.execute(
        update(SaleAudit)
        .where(SaleAudit.sale_id == sale_id, SaleAudit.epoch == seen.epoch, SaleAudit.verified_seq == seen.seq)
        .values(**_sums(to), checked_at=func.greatest(SaleAudit.checked_at, at))  # It passes over NULL.
        .returning(SaleAudit.epoch)
    )
    return advanced.scalar_one_or_none() is not None


async def touch(session: AsyncSession, verified: Sequence[Watched], *, at: datetime) -> None:
    """Note that these were still as they had been verified, at this moment: in one statement."""
    positions = [(each.sale_id, each.epoch, each.watermark) for each in verified]
    columns = [
        literal(list(values), ARRAY(kind)) for values, kind in zip(zip(*positions, strict=True), _POSITION, strict=True)
    ]
    position = func.unnest(*columns).table_valued("sale_id", "epoch", "seq", name="position").render_derived()
    await session.execute(
        update(SaleAudit)
        .where(tuple_(SaleAudit.sale_id, SaleAudit.epoch, SaleAudit.verified_seq).in_(select(position)))
        .values(checked_at=func.greatest(SaleAudit.checked_at, at))
        .execution_options(synchronize_session=False)
    )


_POSITION = (Integer(), Integer(), BigInteger())


async def unfinished(session: AsyncSession, *, limit: int) -> Sequence[int]:
    """Settled sales that had no full pass at their end."""
    query = (
        select(SaleAudit.sale_id)
        .join(Sale, (Sale.id == SaleAudit.sale_id) & (Sale.epoch == SaleAudit.epoch))
        .where(SaleAudit.finished_at.is_(None), Sale.status == SaleStatus.SETTLED)
        .order_by(SaleAudit.sale_id)
        .limit(limit)
    )
    return (await session.execute(query)).scalars().all()


async def finish(session: AsyncSession, sale_id: int) -> bool:
    """Note that the full pass at the end was made; False when somebody was faster. Earlier epochs end with it."""
    finished = await session.execute(
        update(SaleAudit)
        .where(SaleAudit.sale_id == sale_id, SaleAudit.finished_at.is_(None))
        .values(finished_at=func.now())
        .returning(SaleAudit.epoch)
        .execution_options(synchronize_session=False)
    )
    return bool(finished.all())


async def lock_unchanged(session: AsyncSession, seen: Sale, *, at: datetime) -> Sale | None:
    """The sale, locked; None when it is not what was found wrong: it went on, was stopped, or was verified since."""
    sale = await sales.lock(session, seen.id)
    if sale is None or (sale.epoch, sale.recovery, sale.status) != (seen.epoch, seen.recovery, seen.status):
        return None
    if sale.alarm is not None:
        return None
    good_since = select(SaleAudit.epoch).where(
        SaleAudit.sale_id == sale.id, SaleAudit.epoch == sale.epoch, SaleAudit.checked_at > at
    )
    return sale if (await session.execute(good_since)).first() is None else None


async def add_finding(
    session: AsyncSession, sale: Sale, *, watermark: int, violations: Sequence[str], evidence: dict[str, Any]
) -> None:
    """Write down what is wrong with this locked sale, and stop it if it is alive."""
    sale.alarm = f"the audit found that {'; '.join(violations)}"[:ALARM_LENGTH_MAX]
    if sale.status != SaleStatus.SETTLED:
        sale.stopped_at = await sales.database_time(session)
    finding = AuditFinding(
        sale_id=sale.id, epoch=sale.epoch, watermark=watermark, violations=list(violations), evidence=evidence
    )
    session.add(finding)
    await session.flush()
    record_admin_event(session, CONTROLLER, action="sale.stop", subject="sale", subject_id=sale.id, finding=finding.id)
