"""Ask for a recovery: the sale is closed at once, and whichever worker comes first recovers it."""

import redis.asyncio as aioredis
import structlog

from shop.admin_events import record_admin_event
from shop.auth import Actor
from shop.database import Database
from shop.errors import SaleNotFound, SaleStateConflict
from shop.ledger import loading
from shop.sales import repository as sales
from shop.sales.incidents import repository
from shop.sales.incidents.models import Recovery
from shop.sales.models import Sale

log = structlog.get_logger(__name__)


async def demand_recovery(
    database: Database, client: aioredis.Redis, sale: Sale, reason: str, *, may_load: bool, renew: bool = False
) -> bool:
    """Begin the recovery of a sale whose ledger does not agree with what is promised, and fence it.

    `sale` is the row as it was before the ledger was looked at: if another epoch or another recovery has come since,
    nothing happens, and the next check will tell. `renew` says that something is surely lost, whatever a comparison
    would find. Who `may_load` scripts sets the fence even where Redis has forgotten them: they may be there again in a
    moment. Returns whether this began it.
    """
    async with database.transaction() as session:
        recovery = await repository.begin(
            session, sale.id, epoch=sale.epoch, seen=sale.recovery, reason=reason, renew=renew
        )
    if recovery is None:
        return False
    log.error("recovery_begins", sale_id=sale.id, n=recovery.n, epoch=sale.epoch, reason=reason)
    await loading.fence(client, sale.id, [sale.epoch], number=recovery.n, may_load=may_load)
    return True


async def recover(database: Database, actor: Actor, sale_id: int) -> Recovery:
    """Begin a recovery because an operator asks for it, or return the one that is under way.

    A sale that an audit has stopped gets a new epoch: its ledger is proven wrong, whatever a comparison would find.
    Raises SaleNotFound, or SaleStateConflict for a sale without a ledger.
    """
    async with database.transaction() as session:
        sale = await sales.lock(session, sale_id)
        if sale is None:
            raise SaleNotFound
        if sale.status not in sales.ALIVE:
            raise SaleStateConflict(f"The sale is {sale.status}; it has no ledger to recover")
        begun = await repository.begin(
            session,
            sale_id,
            epoch=sale.epoch,
            seen=sale.recovery,
            reason="asked for by an operator",
            renew=sale.stopped_at is not None,
            by_operator=True,
        )
        recovery = begun or await repository.unfinished(session, sale_id)
        if recovery is None:
            raise SaleStateConflict("The sale was just recovered")
        record_admin_event(session, actor, action="sale.recover", subject="sale", subject_id=sale_id, n=recovery.n)
    return recovery
