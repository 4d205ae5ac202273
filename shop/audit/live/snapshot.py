"""A snapshot of one sale: the rows of its ledger after the verified position, and Redis at the same watermark."""

from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

import redis.asyncio as aioredis
import structlog
from redis.exceptions import ResponseError
from sqlalchemy.ext.asyncio import AsyncSession

from shop.audit import repository as rows
from shop.audit.invariants import Counted, InRedis, Position, Violations, chain_breaks, violations
from shop.audit.live import repository
from shop.audit.reading import MovedOn, read_ledger
from shop.audit.service import FullPass
from shop.database import Database, see_one_moment
from shop.failure_isolation import is_transient
from shop.sales import repository as sales
from shop.sales.incidents import repository as recoveries
from shop.sales.models import Sale
from shop.settings import Settings

TRIES_MAX = 5  # of one snapshot, while the persister is faster than it
EVIDENCE_ROWS_MAX = 20

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """A sale at one moment. `in_redis` is None where it could not be compared this time."""

    at: datetime
    counted: Counted
    in_redis: InRedis | None = None
    faulty_rows: tuple[dict[str, Any], ...] = ()

    @property
    def sale(self) -> Sale:
        """The row of the sale."""
        return self.counted.sale

    @property
    def violations(self) -> Violations:
        """What does not hold."""
        return violations(self.counted, self.in_redis)

    @property
    def has_more(self) -> bool:
        """Whether there are rows after those of this snapshot."""
        return not self.counted.at_watermark


def of_full_pass(found: FullPass) -> Snapshot:
    """A full pass as a snapshot of the sale."""
    return Snapshot(found.at, found.counted, found.in_redis)


async def take_snapshot(
    database: Database, client: aioredis.Redis, sale_id: int, settings: Settings
) -> Snapshot | None:
    """Read what is new in a sale; None when there is nothing to verify, see `Watched.suspended`.

    Redis is left out when the persister is faster than the snapshot, when the ledger is one that the controller has
    recovered, and when an entry above the watermark cannot be true: the persister refuses it and stops the sale.
    """
    seen: tuple[int, int] | None = None
    found = None
    for _ in range(TRIES_MAX):
        async with database.transaction() as session:
            await see_one_moment(session)
            found = await _read_rows(session, sale_id, settings)
        if found is None or found.has_more:
            return found
        sale = found.sale
        standing, seen = seen == (sale.epoch, sale.watermark), (sale.epoch, sale.watermark)
        try:
            in_redis = await read_ledger(client, sale, undrained_max=settings.audit_undrained_max, standing=standing)
        except MovedOn:
            continue
        except (ResponseError, KeyError, ValueError):
            return found
        return replace(found, in_redis=in_redis if _is_for_the_audit(sale, in_redis) else None)
    return found


def _is_for_the_audit(sale: Sale, in_redis: InRedis) -> bool:
    state = in_redis.state
    if state is None or state.epoch != str(sale.epoch) or state.seq < sale.watermark or not in_redis.readable:
        return False
    return not in_redis.undrained or not any(chain_breaks(sale, in_redis.undrained))


async def _read_rows(session: AsyncSession, sale_id: int, settings: Settings) -> Snapshot | None:
    sale = await sales.find(session, sale_id)
    if sale is None or sale.status not in sales.ALIVE or sale.alarm is not None:
        return None
    epoch = await sales.find_epoch(session, sale_id, sale.epoch)
    start = await repository.find_position(session, sale_id, sale.epoch)
    if epoch is None or epoch.loaded_at is None or start is None:
        return None
    if await recoveries.unfinished(session, sale_id) is not None:
        return None
    counted = await _count(session, sale, start, settings)
    snapshot = Snapshot(await sales.database_time(session), counted)
    if any(snapshot.violations.values()):
        snapshot = replace(snapshot, faulty_rows=await _faulty_rows(session, sale, start, settings))
    return snapshot


async def _count(session: AsyncSession, sale: Sale, start: Position, settings: Settings) -> Counted:
    rows_max = settings.audit_rows_max
    part = await rows.read_part(
        session, sale.id, start.epoch, after=start.seq, balance=start.balance, rows_max=rows_max
    )
    most_units = 0
    if part.rows:
        most_units = await rows.most_units_of_buyers(session, sale.id, start.epoch, after=start.seq, rows_max=rows_max)
    position = start.after(part)
    return Counted(
        sale=sale,
        granted=await sales.granted_units(session, sale.id),
        start=start,
        part=part,
        position=position,
        live=position.units_taken,
        held_back=position.held_back,
        most_units=most_units,
    )


async def _faulty_rows(
    session: AsyncSession, sale: Sale, start: Position, settings: Settings
) -> tuple[dict[str, Any], ...]:
    """The rows in question, or why they cannot be shown: a sale that is wrong is stopped all the same."""
    try:
        found = await rows.faulty_rows(
            session,
            sale.id,
            start.epoch,
            after=start.seq,
            balance=start.balance,
            rows_max=settings.audit_rows_max,
            limit=EVIDENCE_ROWS_MAX,
        )
    except Exception as error:
        if is_transient(error):
            raise
        log.error("evidence_unreadable", sale_id=sale.id, exc_info=error)
        return ({"unreadable": repr(error)[:200]},)
    return tuple(found)


def evidence(found: Snapshot) -> dict[str, Any]:
    """What shows that the violations are there, as JSON of bounded size."""
    counted, sale = found.counted, found.sale
    return {
        "at": found.at.isoformat(),
        "verified": asdict(counted.start),
        "counted": {**asdict(counted.position), "live": counted.live, "most_units": counted.most_units},
        "part": asdict(counted.part),
        "guard": {
            name: getattr(sale, name)
            for name in (
                "status", "units", "units_taken", "held_back", "watermark", "watermark_balance", "units_per_user",
            )
        }
        | {"granted": counted.granted},
        "redis": asdict(found.in_redis.state) if found.in_redis and found.in_redis.state else None,
        "rows": list(found.faulty_rows),
        "entries": _entries(found.in_redis),
    }  # fmt: skip


def _entries(in_redis: InRedis | None) -> list[dict[str, Any]]:
    """The last events that were not drained."""
    events = in_redis.undrained[-EVIDENCE_ROWS_MAX:] if in_redis else ()
    return [
        {
            "seq": event.seq,
            "kind": event.kind,
            "order_id": str(event.order_id) if event.order_id else None,
            "quantity": event.quantity,
            "delta": event.delta,
            "balance": event.balance,
        }
        for event in events
    ]
