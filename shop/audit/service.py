"""Prove I1–I5 of a sale at one watermark. The audit reports; it never sets anything right."""

from dataclasses import dataclass

import redis.asyncio as aioredis
from sqlalchemy import text

from shop.audit import repository
from shop.audit.repository import LedgerSums, OrderSums
from shop.audit.schemas import AuditReport
from shop.database import Database
from shop.errors import NotReady, SaleNotFound, SaleStateConflict
from shop.sales import repository as sales
from shop.sales.models import Sale, SaleStatus
from shop.seckill import ledger
from shop.seckill.events import LedgerEvent, UnreadableEvent, parse_event
from shop.seckill.ledger import LedgerState

TRIES = 20
UNDRAINED_MAX = 200_000


@dataclass(frozen=True)
class _Recorded:
    """Postgres at one snapshot."""

    sale: Sale
    opening_balance: int
    granted: int
    sums: LedgerSums
    orders: OrderSums
    most_units: int
    honoured: int
    broken_epochs: list[int]


class _MovedOn(Exception):
    """The stream was trimmed above the snapshot's watermark: take a newer snapshot."""


async def audit_sale(database: Database, client: aioredis.Redis, sale_id: int) -> AuditReport:
    """The invariants of a scheduled, ended or settled sale.

    Postgres is read first, in one snapshot with watermark W, then Redis in one step. The events above W that are still
    in the stream lead from the one to the other, so nothing has to stand still. Raises SaleNotFound, SaleStateConflict
    for a draft, NotReady when the stream moves faster than it can be read.
    """
    for _ in range(TRIES):
        recorded = await _recorded(database, sale_id)
        try:
            if recorded.sale.status == SaleStatus.SETTLED:
                return _report(recorded, None, [])
            state, undrained = await _in_redis(client, recorded.sale)
        except _MovedOn:
            continue
        return _report(recorded, state, undrained)
    raise NotReady("The ledger moves faster than the audit can read it; try again")


async def _recorded(database: Database, sale_id: int) -> _Recorded:
    async with database.transaction() as session:
        await session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
        sale = await sales.find(session, sale_id)
        if sale is None:
            raise SaleNotFound
        epoch = await sales.find_epoch(session, sale_id, sale.epoch)
        if epoch is None:
            raise SaleStateConflict("A draft has nothing to audit")
        return _Recorded(
            sale=sale,
            opening_balance=epoch.opening_balance,
            granted=await sales.granted_units(session, sale_id),
            sums=await repository.ledger_sums(session, sale_id, sale.epoch, epoch.opening_balance),
            orders=await repository.order_sums(session, sale_id),
            most_units=await repository.most_units_of_one_user(session, sale_id),
            honoured=await repository.honoured_units(session, sale_id),
            broken_epochs=await repository.broken_epochs(session, sale_id, before=sale.epoch),
        )


async def _in_redis(client: aioredis.Redis, sale: Sale) -> tuple[LedgerState | None, list[LedgerEvent]]:
    state, entries = await ledger.read_state_and_stream(
        client, sale.id, sale.epoch, after=sale.watermark, count=UNDRAINED_MAX
    )
    try:
        events = [parse_event(*entry) for entry in entries]
    except UnreadableEvent:
        return state, []
    if state is not None and state.seq > sale.watermark and (not events or events[0].seq != sale.watermark + 1):
        raise _MovedOn
    return state, events


def _report(recorded: _Recorded, state: LedgerState | None, undrained: list[LedgerEvent]) -> AuditReport:
    sale, sums, orders = recorded.sale, recorded.sums, recorded.orders
    units = sale.units - recorded.granted
    violations = {
        "I1": _gaps(recorded, state, undrained),
        "I2": _breaks(recorded, state, undrained),
        "I3": _conservation(recorded, units),
        "I4": _oversell(recorded),
        "I5": _limit(recorded),
    }
    return AuditReport(
        sale_id=sale.id,
        epoch=sale.epoch,
        watermark=sale.watermark,
        ledger_seq=state.seq if state else sale.watermark,
        undrained=len(undrained),
        units=units,
        available=sale.watermark_balance,
        held=orders.held,
        paid=orders.paid,
        closing=orders.closing,
        kept=orders.kept,
        held_back=sale.held_back,
        honoured=recorded.honoured,
        quarantined=-sums.quarantined_delta,
        invariants={name: not found for name, found in violations.items()},
        violations=[f"{name}: {sentence}" for name, found in violations.items() for sentence in found],
    )


def _gaps(recorded: _Recorded, state: LedgerState | None, undrained: list[LedgerEvent]) -> list[str]:
    """I1: the numbers in Postgres and above the watermark are 1..n, each once."""
    sale, sums = recorded.sale, recorded.sums
    found = [f"the rows of epoch {epoch} have a gap or do not add up" for epoch in recorded.broken_epochs]
    if sums.rows != sale.watermark or sums.last_seq != sale.watermark or (sums.rows and sums.first_seq != 1):
        found.append(f"{sums.rows} rows from {sums.first_seq} to {sums.last_seq} at watermark {sale.watermark}")
    expected = list(range(sale.watermark + 1, sale.watermark + 1 + len(undrained)))
    if [event.seq for event in undrained] != expected:
        found.append(f"the stream does not go on from {sale.watermark + 1} without a gap")
    if sale.status != SaleStatus.SETTLED:
        if state is None:
            found.append("the ledger is missing in Redis")
        elif state.seq != sale.watermark + len(undrained):
            found.append(f"the ledger is at {state.seq}, the stream ends at {sale.watermark + len(undrained)}")
    return found


def _breaks(recorded: _Recorded, state: LedgerState | None, undrained: list[LedgerEvent]) -> list[str]:
    """I2: each balance is the one before it plus its delta, and Redis has the last one."""
    sums = recorded.sums
    found = []
    if sums.broken_balances or sums.negative_balances:
        found.append(f"{sums.broken_balances} balances do not add up, {sums.negative_balances} are negative")
    balance, held_back = recorded.sale.watermark_balance, recorded.sale.held_back
    for event in undrained:
        if event.balance != balance + event.delta or event.balance < 0:
            found.append(f"entry {event.seq} has balance {event.balance} after {balance} and {event.delta}")
        balance, held_back = event.balance, _held_back_after(event, held_back)
    if state is not None and state.held_back != held_back:
        found.append(f"Redis holds {state.held_back} units back, its events lead to {held_back}")
    if state is not None and state.available != balance:
        found.append(f"Redis has {state.available} units available, its events lead to {balance}")
    return found


def _held_back_after(event: LedgerEvent, held_back: int) -> int:
    if event.kind == "honoured":
        return held_back - event.quantity - event.delta
    return 0 if event.kind == "restore" and event.outcome == "applied" else held_back


def _conservation(recorded: _Recorded, units: int) -> list[str]:
    """I3: every unit is somewhere, and only once."""
    sale, quarantined = recorded.sale, -recorded.sums.quarantined_delta
    counted = sale.watermark_balance + recorded.orders.live + sale.held_back + quarantined
    return [] if counted == units else [f"{counted} units are counted, {units} are on sale"]


def _oversell(recorded: _Recorded) -> list[str]:
    """I4: the units of live orders never exceed the sale's units, and the guard row counts the same."""
    live, sale = recorded.orders.live, recorded.sale
    found = [] if live <= sale.units else [f"{live} units are sold of {sale.units}"]
    return found if live == sale.units_taken else [*found, f"the guard counts {sale.units_taken}, the orders {live}"]


def _limit(recorded: _Recorded) -> list[str]:
    """I5: no user has more live units than the sale allows."""
    most, allowed = recorded.most_units, recorded.sale.units_per_user
    return [] if most <= allowed else [f"one user has {most} units, {allowed} are allowed"]
