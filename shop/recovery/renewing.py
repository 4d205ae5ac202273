"""A new epoch: what the old ledger still knows is written down, and one transaction decides what goes on sale again."""

import re
from collections.abc import Iterable, Iterator
from uuid import UUID

import redis.asyncio as aioredis
import structlog
from redis.exceptions import ResponseError
from sqlalchemy.ext.asyncio import AsyncSession

from shop.audit import repository as orders
from shop.audit.invariants import Position
from shop.audit.live import repository as audits
from shop.auth import CONTROLLER
from shop.database import Database
from shop.ledger import loading
from shop.ledger.client import LedgerOrder
from shop.ledger.events import INT32_MAX
from shop.ledger.order_ids import USER_ID_PATTERN, sale_of
from shop.orders.announcing import announce_after_commit
from shop.recovery import repository
from shop.recovery.comparing import fenced_state
from shop.sales import repository as sales
from shop.sales.changes import close_open_changes
from shop.sales.incidents import repository as recoveries
from shop.sales.incidents.models import Recovery, RecoveryStep
from shop.sales.incidents.repository import Promise
from shop.sales.models import ChangeKind, Sale, SaleEpoch, SaleStatus

log = structlog.get_logger(__name__)


async def gather_survivors(database: Database, client: aioredis.Redis, recovery: Recovery) -> None:
    """Claim every order that the old ledger holds and Postgres does not know: its event may be lost, it is not."""
    newest = await loading.newest_epoch(client, recovery.sale_id, recovery.from_epoch)
    for epoch in range(recovery.from_epoch, newest + 1):
        await _gather(database, client, recovery, epoch)


async def _gather(database: Database, client: aioredis.Redis, recovery: Recovery, epoch: int) -> None:
    try:
        async for chunk in loading.surviving_orders(client, recovery.sale_id, epoch):
            promises = {promise.order_id: promise for promise in _promises(recovery, chunk)}
            if promises:
                async with database.transaction() as session:
                    missing = await repository.without_row(session, list(promises))
                    found = [promises[order_id] for order_id in missing]
                    await recoveries.add_claims(session, found, source="ledger")
    except ResponseError as error:
        log.error("old_orders_unreadable", sale_id=recovery.sale_id, reason=str(error))


def _promises(recovery: Recovery, chunk: Iterable[tuple[bytes, LedgerOrder]]) -> Iterator[Promise]:
    for order_id, order in chunk:
        ours = len(order_id) == 16 and sale_of(UUID(bytes=order_id)) == recovery.sale_id
        possible = re.fullmatch(USER_ID_PATTERN, order.user_id) and 1 <= order.quantity <= INT32_MAX
        if order.held and ours and possible:
            yield Promise(
                recovery.sale_id, recovery.from_epoch, UUID(bytes=order_id), order.seq, order.user_id, order.quantity
            )


async def renew(database: Database, client: aioredis.Redis, recovery: Recovery) -> bool:
    """Begin the new epoch; False when another worker has decided already.

    The units of unpersisted reservations are held back for their buyers, and for each lost event that nobody can
    explain as many as one buyer may have. The rest is on sale at once.
    """
    state = await fenced_state(client, recovery)
    to_epoch = await loading.newest_epoch(client, recovery.sale_id, recovery.from_epoch) + 1
    async with database.transaction() as session:
        sale = await sales.lock(session, recovery.sale_id)
        if sale is None or sale.epoch != recovery.from_epoch:
            return False
        await repository.reopen_claims(session, sale.id)
        await repository.sort_claims(session, sale.id)
        await _release_owed(session, sale)
        unpersisted = await repository.unpersisted(session, sale)
        highest_seq = max(await repository.highest_seq_seen(session, recovery), state.seq if state else 0)
        unexplained = max(highest_seq - sale.watermark - unpersisted.explains, 0)
        wanted = unexplained * sale.units_per_user + unpersisted.units + sale.held_back
        await _count_again(session, sale)
        now = await sales.database_time(session)
        await close_open_changes(session, sale, spare=sale.units - sale.units_taken - wanted, now=now)
        if not await recoveries.advance(
            session, recovery, RecoveryStep.LOAD, to_epoch=to_epoch, unexplained=unexplained
        ):
            await session.rollback()
            return False
        await _begin_epoch(session, sale, to_epoch, held_back=min(sale.units - sale.units_taken, wanted))
    log.error(
        "epoch_begins",
        sale_id=recovery.sale_id,
        epoch=to_epoch,
        unpersisted=unpersisted.units,
        unexplained=unexplained,
    )
    return True


async def _count_again(session: AsyncSession, sale: Sale) -> None:
    """The new ledger begins with the orders that there are, whatever the guard row says about them."""
    live = (await orders.order_sums(session, sale.id)).live
    if live != sale.units_taken:
        log.error("guard_was_wrong", sale_id=sale.id, units_taken=sale.units_taken, counted=live)
        sale.units_taken = live


async def _release_owed(session: AsyncSession, sale: Sale) -> None:
    """Give back what closed orders owe: the lost ledger may have done so already, and promised these units to others.

    They would be missing when those promises are honoured. After the end nothing was promised any more.
    """
    if sale.status == SaleStatus.SCHEDULED:
        units_of = await repository.release_owed(session, sale.id)
        sale.units_taken -= sum(units_of.values())
        announce_after_commit(session, list(units_of))


async def _begin_epoch(session: AsyncSession, sale: Sale, epoch: int, *, held_back: int) -> None:
    opening_balance = sale.units - sale.units_taken - held_back
    sale.epoch, sale.held_back = epoch, held_back
    sale.watermark, sale.watermark_balance = 0, opening_balance
    session.add(SaleEpoch(sale_id=sale.id, epoch=sale.epoch, opening_balance=opening_balance))
    await session.flush()
    await audits.begin(session, sale.id, Position(epoch, 0, opening_balance, sale.units_taken, held_back, 0))
    last = await sales.last_of(session, sale.id, (ChangeKind.PAUSE, ChangeKind.RESUME))
    if last is not None and last.kind == ChangeKind.PAUSE and last.requested_by == CONTROLLER.id:
        sale.paused = False  # It was for the entry that could not be recorded, and that is over.
    await session.flush()
