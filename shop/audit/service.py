"""The full pass: prove I1–I6 of a sale from its first row on. The audit reports; it never sets anything right."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import redis.asyncio as aioredis
from sqlalchemy.ext.asyncio import AsyncSession

from shop.audit import repository
from shop.audit.invariants import Counted, InRedis, Position, Violations, sentences_of, violations
from shop.audit.models import AuditFinding, SaleAudit
from shop.audit.reading import MovedOn, read_ledger
from shop.audit.repository import OrderSums, Part
from shop.audit.schemas import AuditReport, FindingRead
from shop.database import Database, see_one_moment
from shop.errors import NotReady, SaleNotFound, SaleStateConflict
from shop.sales import repository as sales
from shop.sales.models import Sale, SaleEpoch, SaleStatus

TRIES = 20
ROWS_PER_QUERY = 50_000
ALL_ROWS = 2**62
UNDRAINED_MAX = 200_000
FINDINGS_SHOWN = 5


@dataclass(frozen=True)
class FullPass:
    """A sale at one watermark, counted from its first row on, and what the audits have written down about it."""

    at: datetime
    counted: Counted
    in_redis: InRedis | None
    orders: OrderSums
    honoured: int
    verified: SaleAudit | None
    findings: Sequence[AuditFinding]

    @property
    def violations(self) -> Violations:
        """What does not hold."""
        return violations(self.counted, self.in_redis)


async def audit_sale(database: Database, client: aioredis.Redis, sale_id: int) -> AuditReport:
    """The invariants of a scheduled, ended or settled sale, and how far the audit that goes on by itself is.

    Raises SaleNotFound, SaleStateConflict for a draft, NotReady when the stream moves faster than it can be read.
    """
    return _report(await pass_fully(database, client, sale_id))


async def pass_fully(database: Database, client: aioredis.Redis, sale_id: int) -> FullPass:
    """Count everything. Raises what `audit_sale` raises."""
    seen: tuple[int, int] | None = None
    for _ in range(TRIES):
        async with database.transaction() as session:
            await see_one_moment(session)
            recorded = await _recorded(session, sale_id)
        sale = recorded.counted.sale
        if sale.status == SaleStatus.SETTLED:
            return recorded
        standing, seen = seen == (sale.epoch, sale.watermark), (sale.epoch, sale.watermark)
        try:
            in_redis = await read_ledger(client, sale, undrained_max=UNDRAINED_MAX, standing=standing)
        except MovedOn:
            continue
        return FullPass(**{**vars(recorded), "in_redis": in_redis})
    raise NotReady("The ledger moves faster than the audit can read it; try again")


async def _recorded(session: AsyncSession, sale_id: int) -> FullPass:
    sale = await sales.find(session, sale_id)
    if sale is None:
        raise SaleNotFound
    epoch = await sales.find_epoch(session, sale_id, sale.epoch)
    if epoch is None:
        raise SaleStateConflict("A draft has nothing to audit")
    orders = await repository.order_sums(session, sale_id)
    return FullPass(
        at=await sales.database_time(session),
        counted=await _count(session, sale, epoch, orders),
        in_redis=None,
        orders=orders,
        honoured=await repository.honoured_units(session, sale_id),
        verified=await repository.find_position(session, sale_id, sale.epoch),
        findings=await repository.latest_findings(session, sale_id, limit=FINDINGS_SHOWN),
    )


async def _count(session: AsyncSession, sale: Sale, epoch: SaleEpoch, orders: OrderSums) -> Counted:
    start = Position(sale.epoch, 0, epoch.opening_balance, units_taken=0, held_back=0, quarantined=0)
    part = await _all_rows(session, sale.id, start)
    return Counted(
        sale=sale,
        granted=await sales.granted_units(session, sale.id),
        start=start,
        part=part,
        position=start.after(part),
        live=orders.live,
        held_back=sale.held_back,
        most_units=await repository.most_units_of_one_user(session, sale.id),
        broken_epochs=await repository.broken_epochs(session, sale.id, before=sale.epoch),
        unpaired=await repository.unpaired(session, sale.id),
    )


async def _all_rows(session: AsyncSession, sale_id: int, position: Position) -> Part:
    """All rows of the epoch, in pieces: no statement is longer for a sale that is larger."""
    total = Part(rows_max=ALL_ROWS)
    while True:
        part = await repository.read_part(
            session, sale_id, position.epoch, after=position.seq, balance=position.balance, rows_max=ROWS_PER_QUERY
        )
        total, position = total.and_then(part), position.after(part)
        if part.rows < ROWS_PER_QUERY:
            return total


def _report(found: FullPass) -> AuditReport:
    counted, orders, in_redis, verified = found.counted, found.orders, found.in_redis, found.verified
    sale = counted.sale
    state = in_redis.state if in_redis else None
    return AuditReport(
        sale_id=sale.id,
        epoch=sale.epoch,
        watermark=sale.watermark,
        ledger_seq=state.seq if state else sale.watermark,
        undrained=len(in_redis.undrained) if in_redis else 0,
        units=counted.units,
        available=sale.watermark_balance,
        held=orders.held,
        paid=orders.paid,
        closing=orders.closing,
        kept=orders.kept,
        held_back=sale.held_back,
        honoured=found.honoured,
        quarantined=counted.position.quarantined,
        invariants={name: not sentences for name, sentences in found.violations.items()},
        violations=sentences_of(found.violations),
        verified_seq=verified.verified_seq if verified else None,
        verified_at=verified.checked_at if verified else None,
        stopped_at=sale.stopped_at,
        findings=[FindingRead.model_validate(finding) for finding in found.findings],
    )
