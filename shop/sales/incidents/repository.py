"""Every query about recoveries, claims and the API processes that does not look at orders."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import func, select, true, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from shop.sales.incidents.models import (
    ApiProcess,
    ClaimOutcome,
    Recovery,
    RecoveryAnswer,
    RecoveryClaim,
    RecoveryStep,
)
from shop.sales.models import Sale, SaleEpoch
from shop.sales.repository import ALIVE

FORGET_PROCESS_AFTER = timedelta(hours=1)
# No process is asked before the ledger is fenced: it could reserve more after its report.
ASKING = (RecoveryStep.COMPARE, RecoveryStep.LIFT, RecoveryStep.LOAD, RecoveryStep.HONOUR, RecoveryStep.OPEN)


class Live(NamedTuple):
    """How far a sale is recorded, and whether its ledger is in question."""

    epoch: int
    watermark: int
    recovering: bool


class Promise(NamedTuple):
    """An order that somebody remembers as promised."""

    sale_id: int
    epoch: int
    order_id: UUID
    seq: int
    user_id: str
    quantity: int


async def begin(
    session: AsyncSession, sale_id: int, *, epoch: int, seen: int, reason: str, renew: bool, by_operator: bool = False
) -> Recovery | None:
    """Begin a recovery; None when the sale has moved on from this epoch and number of recoveries, or is in one.

    A sale that an audit has stopped stays as it is until an operator asks.
    """
    may_begin = true() if by_operator else Sale.stopped_at.is_(None)
    moved = await session.execute(
        update(Sale)
        .where(
            Sale.id == sale_id, Sale.epoch == epoch, Sale.recovery == seen, may_begin, ~_unfinished(sale_id).exists()
        )
        .values(recovery=Sale.recovery + 1, alarm=reason, stopped_at=None)
        .returning(Sale.recovery)
    )
    n = moved.scalar_one_or_none()
    if n is None:
        return None
    recovery = Recovery(sale_id=sale_id, n=n, from_epoch=epoch, reason=reason, renew=renew)
    session.add(recovery)
    await session.flush()
    return recovery


def _unfinished(sale_id: int) -> Any:
    return select(Recovery.n).where(Recovery.sale_id == sale_id, Recovery.finished_at.is_(None))


async def unfinished(session: AsyncSession, sale_id: int) -> Recovery | None:
    """The recovery that a sale is in."""
    query = select(Recovery).where(Recovery.sale_id == sale_id, Recovery.finished_at.is_(None))
    return (await session.execute(query)).scalar_one_or_none()


async def lease(session: AsyncSession, sale_id: int, worker_id: UUID, *, lease_seconds: float) -> Recovery | None:
    """The unfinished recovery of a sale, if this worker has its lease or gets it now, for so long from now on."""
    leased = await session.execute(
        update(Recovery)
        .where(
            Recovery.sale_id == sale_id,
            Recovery.finished_at.is_(None),
            Recovery.leased_until.is_(None) | (Recovery.leased_until < func.now()) | (Recovery.leased_by == worker_id),
        )
        .values(leased_by=worker_id, leased_until=func.now() + timedelta(seconds=lease_seconds))
        .returning(Recovery)
    )
    return leased.scalar_one_or_none()


async def advance(session: AsyncSession, recovery: Recovery, to: RecoveryStep, **values: Any) -> bool:
    """Write the next step; False when somebody else has done so."""
    if to is RecoveryStep.DONE:
        values["finished_at"] = func.now()
    advanced = await session.execute(
        update(Recovery)
        .where(Recovery.sale_id == recovery.sale_id, Recovery.n == recovery.n, Recovery.step == recovery.step)
        .values(step=to, step_at=func.now(), **values)
        .returning(Recovery.n)
        .execution_options(synchronize_session=False)
    )
    return advanced.scalar_one_or_none() is not None


async def note_run(session: AsyncSession, sale_id: int, epoch: int, run_id: str) -> None:
    """Record in which run of Redis a ledger was compared."""
    await session.execute(
        update(SaleEpoch).where(SaleEpoch.sale_id == sale_id, SaleEpoch.epoch == epoch).values(run_id=run_id)
    )


async def silent_processes(session: AsyncSession, recovery: Recovery, *, alive_seconds: float) -> int:
    """How many processes that were alive when they were asked have not answered."""
    answered = select(RecoveryAnswer.process_id).where(
        RecoveryAnswer.sale_id == recovery.sale_id, RecoveryAnswer.n == recovery.n
    )
    alive_since = recovery.step_at - timedelta(seconds=alive_seconds)
    query = select(func.count()).where(ApiProcess.seen_at > alive_since, ApiProcess.id.not_in(answered))
    return int((await session.execute(query)).scalar_one())


async def waited_long(session: AsyncSession, recovery: Recovery, *, seconds: float) -> bool:
    """Whether a recovery has been at its step for so long, by Postgres time."""
    query = select(Recovery.step_at <= func.now() - timedelta(seconds=seconds)).where(
        Recovery.sale_id == recovery.sale_id, Recovery.n == recovery.n
    )
    return bool((await session.execute(query)).scalar_one())


async def add_claims(session: AsyncSession, promises: Sequence[Promise], *, source: str) -> None:
    """Record what was reported; what is there already stays as it is."""
    if promises:
        rows = [{**promise._asdict(), "source": source} for promise in promises]
        await session.execute(insert(RecoveryClaim).on_conflict_do_nothing(), rows)


async def find_claim(session: AsyncSession, promise: Promise) -> RecoveryClaim | None:
    """What is recorded of a reservation that was reported."""
    return await session.get(RecoveryClaim, (promise.sale_id, promise.epoch, promise.order_id))


async def close_claims(
    session: AsyncSession, sale_id: int, epoch: int, order_ids: Sequence[UUID], outcome: ClaimOutcome
) -> None:
    """Record the outcome of these claims."""
    await session.execute(
        update(RecoveryClaim)
        .where(
            RecoveryClaim.sale_id == sale_id, RecoveryClaim.epoch == epoch, RecoveryClaim.order_id.in_(list(order_ids))
        )
        .values(outcome=outcome)
        .execution_options(synchronize_session=False)
    )


async def explain(session: AsyncSession, promise: Promise, *, window_seconds: int) -> bool:
    """Whether a receipt can still be honoured: the recovery of its epoch is under way, or in its window.

    It explains one of the events that the recovery could not explain.
    """
    in_window = Recovery.finished_at.is_(None) | (Recovery.finished_at > func.now() - timedelta(seconds=window_seconds))
    explained = await session.execute(
        update(Recovery)
        .where(
            Recovery.sale_id == promise.sale_id,
            Recovery.from_epoch == promise.epoch,
            in_window,
            Recovery.to_epoch.is_not(None) | Recovery.finished_at.is_(None),
        )
        .values(unexplained=func.greatest(Recovery.unexplained - 1, 0))
        .returning(Recovery.n)
        .execution_options(synchronize_session=False)
    )
    return bool(explained.scalars().all())


async def answer(session: AsyncSession, recovery: Recovery, process_id: UUID, highest_seq: int) -> None:
    """Record that a process has reported all that it had."""
    values = {"sale_id": recovery.sale_id, "n": recovery.n, "process_id": process_id, "highest_seq": highest_seq}
    await session.execute(insert(RecoveryAnswer).values(values).on_conflict_do_nothing())


async def record_heartbeat(session: AsyncSession, process_id: UUID) -> None:
    """Record that an API process is alive."""
    statement = insert(ApiProcess).values(id=process_id)
    await session.execute(statement.on_conflict_do_update(index_elements=["id"], set_={"seen_at": func.now()}))


async def forget_processes(session: AsyncSession) -> None:
    """Delete the processes whose last heartbeat is long ago."""
    gone = select(ApiProcess).where(ApiProcess.seen_at < func.now() - FORGET_PROCESS_AFTER)
    for process in (await session.execute(gone)).scalars():
        await session.delete(process)


async def live(session: AsyncSession) -> dict[int, Live]:
    """How far each sale that has a ledger is recorded."""
    recovering = select(Recovery.n).where(Recovery.sale_id == Sale.id, Recovery.finished_at.is_(None)).exists()
    query = select(Sale.id, Sale.epoch, Sale.watermark, recovering).where(Sale.status.in_(ALIVE))
    return {sale_id: Live(epoch, watermark, found) for sale_id, epoch, watermark, found in await session.execute(query)}


async def asking(session: AsyncSession, process_id: UUID) -> Sequence[Recovery]:
    """The recoveries that wait for this process's report."""
    answered = (
        select(RecoveryAnswer.n)
        .where(
            RecoveryAnswer.sale_id == Recovery.sale_id,
            RecoveryAnswer.n == Recovery.n,
            RecoveryAnswer.process_id == process_id,
        )
        .exists()
    )
    query = select(Recovery).where(Recovery.finished_at.is_(None), Recovery.step.in_(ASKING), ~answered)
    return (await session.execute(query)).scalars().all()


async def lost_at_most(session: AsyncSession) -> int:
    """How many promises may be lost for good: those refused, and the events that nobody could explain."""
    refused = select(func.count()).where(RecoveryClaim.outcome == ClaimOutcome.REFUSED).scalar_subquery()
    unexplained = select(func.coalesce(func.sum(Recovery.unexplained), 0)).scalar_subquery()
    return int((await session.execute(select(refused + unexplained))).scalar_one())
