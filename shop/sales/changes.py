"""Numbered changes on their way to the ledger, and their effect on Postgres once their event is drained."""

import asyncio
from datetime import datetime, timedelta

import redis.asyncio as aioredis
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from shop.database import Database
from shop.errors import ChangeRefused
from shop.ledger import client as ledger
from shop.ledger_owner import is_foreign
from shop.products import repository as products
from shop.redis import CONNECTION_ERRORS, NotSent, OutcomeUnknown
from shop.sales import repository
from shop.sales.models import ChangeKind, Sale, SaleChange, SaleStatus
from shop.settings import Settings

APPLIED = "applied"
RECOVERED = "recovered"  # the outcome of a change that was under way when the ledger was lost
POLL_SECONDS = 0.02

log = structlog.get_logger(__name__)


class ChangeOutOfOrder(Exception):
    """The ledger has not applied a change that Postgres believes applied: it was rolled back."""


async def apply_open_changes(
    database: Database, client: aioredis.Redis, sale_id: int, epoch: int, settings: Settings
) -> dict[int, str]:
    """Offer every open change to the ledger, in order; returns the outcomes that are known from its answers.

    Called right after a commit and by every pass of the controller: the number makes a repeat harmless. Raises
    ChangeOutOfOrder.
    """
    outcomes: dict[int, str] = {}
    try:
        if await is_foreign(database, client):
            return outcomes
    except CONNECTION_ERRORS as error:
        log.warning("changes_wait", sale_id=sale_id, reason=repr(error)[:200])
        return outcomes
    async with database.transaction() as session:
        changes = await repository.open_changes(session, sale_id)
    for change in changes:
        first, second = _arguments(change)
        try:
            answer = await ledger.change(
                client,
                sale_id,
                epoch,
                n=change.n,
                kind=change.kind,
                first=first,
                second=second,
                timeout=settings.redis_timeout_seconds,
            )
        except (NotSent, OutcomeUnknown) as error:
            log.warning("change_waits", sale_id=sale_id, n=change.n, reason=str(error))
            break
        if answer.word == "APPLIED":
            outcomes[change.n] = APPLIED
        elif answer.word == "REFUSED":
            outcomes[change.n] = answer.fields[1]
        elif answer.word == "GAP":
            raise ChangeOutOfOrder(f"change {change.n} follows {answer.fields[0]} in the ledger")
        elif answer.word != "ALREADY":
            break
    return outcomes


def _arguments(change: SaleChange) -> tuple[int | str, int | str]:
    if change.starts_at is not None and change.ends_at is not None:
        return milliseconds(change.starts_at), milliseconds(change.ends_at)
    return ("" if change.units_delta is None else change.units_delta), ""


def milliseconds(at: datetime) -> int:
    """A moment as the ledger writes it."""
    return round(at.timestamp() * 1000)


async def outcome_of(
    database: Database, client: aioredis.Redis, change: SaleChange, epoch: int, settings: Settings
) -> SaleChange:
    """Apply a change that was committed, and return it with its outcome; None when that is not known in time.

    Raises ChangeRefused with the ledger's reason.
    """
    outcome = change.outcome
    if outcome is None:
        outcomes = await apply_open_changes(database, client, change.sale_id, epoch, settings)
        outcome = outcomes.get(change.n)
    deadline = asyncio.get_running_loop().time() + settings.change_wait_seconds
    while outcome is None and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(POLL_SECONDS)
        async with database.transaction() as session:
            row = await repository.find_change(session, change.sale_id, change.n)
        outcome = row.outcome if row else None
    if outcome not in {None, APPLIED}:
        raise ChangeRefused(f"The ledger refused: {outcome}", reason=outcome)
    change.outcome = outcome
    return change


async def record_drained(session: AsyncSession, sale: Sale, *, n: int, outcome: str, delta: int, at: datetime) -> bool:
    """Close the row of a change whose event is drained, and move the locked sale and its product accordingly.

    Returns False when there is no such open change: then the stream and Postgres do not belong together.
    """
    change = await repository.close_change(session, sale.id, n, outcome)
    if change is None:
        return False
    if outcome != APPLIED:
        if change.kind == ChangeKind.UNITS and change.units_delta is not None and change.units_delta > 0:
            await _return_units(session, sale, change.units_delta)
        return True
    match change.kind:
        case ChangeKind.PAUSE | ChangeKind.RESUME:
            sale.paused = change.kind == ChangeKind.PAUSE
        case ChangeKind.WINDOW if change.starts_at is not None and change.ends_at is not None:
            sale.starts_at, sale.ends_at = change.starts_at, change.ends_at
        case ChangeKind.CLOSE:
            sale.ends_at = min(sale.ends_at, at)
            sale.starts_at = min(sale.starts_at, sale.ends_at - timedelta(milliseconds=1))
        case ChangeKind.UNITS if delta < 0:
            await _return_units(session, sale, -delta)
        case ChangeKind.END:
            sale.status = SaleStatus.ENDED
            await _return_units(session, sale, -delta)
        case ChangeKind.SETTLE:
            sale.status = SaleStatus.SETTLED
        case ChangeKind.RESTORE if delta not in {0, sale.held_back}:
            return False
        case ChangeKind.RESTORE:
            if delta == 0:
                await _return_units(session, sale, sale.held_back)
            sale.held_back = 0
    return True


async def close_open_changes(session: AsyncSession, sale: Sale, *, spare: int, now: datetime) -> None:
    """Close the open changes of a locked sale whose ledger is lost, in order, as a new ledger will have applied them.

    `spare` units are neither taken nor held back. The controller's own changes are numbered again when it is time.
    """
    for change in await repository.open_changes(session, sale.id):
        delta, outcome = change.units_delta or 0, APPLIED
        if change.kind in {ChangeKind.END, ChangeKind.SETTLE, ChangeKind.RESTORE}:
            outcome = RECOVERED
        elif sale.status != SaleStatus.SCHEDULED:
            outcome = "ended"
        elif delta < 0 and spare + delta < 0:
            outcome = "too_few_units"
        elif delta < 0:
            spare += delta
        await record_drained(session, sale, n=change.n, outcome=outcome, delta=delta, at=now)
    await session.flush()


async def _return_units(session: AsyncSession, sale: Sale, units: int) -> None:
    if units:
        sale.units -= units
        await products.give_stock(session, sale.product_id, units)
