"""Stop a sale that is proven wrong: write down why, and let nobody buy until an operator recovers it.

Nothing is set right here, and no pause is asked for: the fence keeps more out, and a pause would wait behind it and
come true after the recovery. A process that was stopped in the midst of it and thaws later finds that the sale has gone
on, by comparing under its lock; its late fence would hit the ledger of an epoch that the recovery has replaced.
"""

import asyncio

import redis.asyncio as aioredis
import structlog

from shop import metrics
from shop.audit.invariants import sentences_of
from shop.audit.live import repository
from shop.audit.live.snapshot import Snapshot, evidence
from shop.database import Database
from shop.failure_isolation import SERVER_ERRORS
from shop.faults import fault_point
from shop.ledger import loading
from shop.settings import Settings

UNRECORDED_FENCE_SECONDS_MAX = 10.0  # an older snapshot is no reason to close a sale that nobody can ask about

log = structlog.get_logger(__name__)


async def stop_sale(database: Database, client: aioredis.Redis, found: Snapshot, settings: Settings) -> bool:
    """Record the finding and raise the alarm, then fence the ledger; False when the sale has moved on meanwhile.

    When Postgres cannot record it, the ledger is fenced all the same. The controller asks for a recovery of such a
    ledger once Postgres is back, and the next audit verifies it again.
    """
    began = asyncio.get_running_loop().time()
    sale, sentences = found.sale, sentences_of(found.violations)
    fault_point(settings, "stop_before_finding")
    try:
        async with database.transaction() as session:
            locked = await repository.lock_unchanged(session, sale, at=found.at)
            if locked is None:
                log.info("sale_has_moved_on", sale_id=sale.id, violations=sentences)
                return False
            await repository.add_finding(
                session, locked, watermark=sale.watermark, violations=sentences, evidence=evidence(found)
            )
    except SERVER_ERRORS:
        if asyncio.get_running_loop().time() - began < UNRECORDED_FENCE_SECONDS_MAX:
            await fence(client, found)
        raise
    count(found)
    log.error("sale_stopped", sale_id=sale.id, epoch=sale.epoch, watermark=sale.watermark, violations=sentences)
    await fence(client, found)
    return True


def count(found: Snapshot) -> None:
    """Show the violations in the metrics."""
    for name, sentences in found.violations.items():
        if sentences:
            metrics.AUDIT_VIOLATIONS.labels(name).inc()


async def fence(client: aioredis.Redis, found: Snapshot) -> None:
    """Make every caller of this epoch stale. The number is that of the recovery that will be able to lift it."""
    sale = found.sale
    await loading.fence(client, sale.id, [sale.epoch], number=sale.recovery + 1)
