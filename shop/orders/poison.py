"""Entries that cannot be recorded: stop the sale and ring the alarm, and let an operator quarantine one."""

from datetime import UTC, datetime

import redis.asyncio as aioredis
import structlog

from shop.admin_events import record_admin_event
from shop.auth import CONTROLLER, Actor
from shop.database import Database
from shop.errors import NotFound, SaleNotFound, SaleStateConflict, ShopError
from shop.ledger import stream
from shop.ledger.events import UnreadableEvent, evidence, parse_event
from shop.sales import repository as sales
from shop.sales import service
from shop.sales.changes import apply_open_changes
from shop.sales.incidents import repository as recoveries
from shop.sales.models import LedgerRow
from shop.settings import Settings

log = structlog.get_logger(__name__)


async def stop_for_poison(
    database: Database, client: aioredis.Redis, sale_id: int, seq: int, reason: str, settings: Settings
) -> None:
    """Pause the sale and ring the alarm, once; the entries stay in the stream as they are."""
    async with database.transaction() as session:
        if await recoveries.unfinished(session, sale_id) is not None:
            return  # It drains the ledger up to this entry, and sets the rest right from what was promised.
        if not await sales.raise_alarm(session, sale_id, f"entry {seq} cannot be recorded: {reason}"):
            return
        sale = await sales.find(session, sale_id)
        try:
            await service.pause(session, CONTROLLER, sale_id)
        except ShopError as refusal:
            log.info("poisoned_sale_not_paused", sale_id=sale_id, reason=str(refusal))
    log.error("entry_poisoned", sale_id=sale_id, seq=seq, reason=reason)
    if sale is not None:
        await apply_open_changes(database, client, sale_id, sale.epoch, settings)


async def quarantine(database: Database, client: aioredis.Redis, actor: Actor, sale_id: int, seq: int) -> LedgerRow:
    """Write the ledger row of a poisoned entry as quarantined, so that what follows it can be recorded, and recover.

    Only the entry right above the watermark of a sale with an alarm can be quarantined. Its ledger counts an order that
    Postgres does not have: the recovery, which any worker does, replaces it by one that is right. Raises SaleNotFound,
    SaleStateConflict, or NotFound when the stream has no such entry.
    """
    async with database.transaction() as session:
        sale = await sales.find(session, sale_id)
    if sale is None:
        raise SaleNotFound
    found = await stream.events_from(client, sale_id, sale.epoch, seq, 2)
    if not found or found[0][0] != seq:
        raise NotFound(f"The stream of sale {sale_id} has no entry {seq}")
    async with database.transaction() as session:
        locked = await sales.lock(session, sale_id)
        if locked is None or locked.alarm is None or locked.watermark + 1 != seq or locked.epoch != sale.epoch:
            raise SaleStateConflict("Only the entry right above the watermark of a sale with an alarm can be set aside")
        row = _quarantined_row(sale_id, sale.epoch, locked.watermark_balance, found)
        session.add(row)
        locked.watermark, locked.watermark_balance = seq, row.balance
        await session.flush()
        reason = f"entry {seq} is quarantined"
        if not await recoveries.begin(
            session, sale_id, epoch=sale.epoch, seen=locked.recovery, reason=reason, renew=True, by_operator=True
        ):
            raise SaleStateConflict("The sale is being recovered")
        record_admin_event(session, actor, action="sale.quarantine", subject="sale", subject_id=sale_id, seq=seq)
    return row


def _quarantined_row(sale_id: int, epoch: int, balance: int, found: list[tuple[int, dict[bytes, bytes]]]) -> LedgerRow:
    """The row that keeps the entry as evidence; its balance is the one that the next entry starts from."""
    seq, fields = found[0]
    try:
        event = parse_event(seq, fields)
        order_id, kind, after = event.order_id, event.kind, event.balance
    except UnreadableEvent:
        order_id, kind, after = None, "unreadable", balance
    if len(found) > 1:
        try:
            following = parse_event(*found[1])
            after = following.balance - following.delta
        except UnreadableEvent:
            log.warning("following_entry_unreadable", sale_id=sale_id, seq=seq + 1)
    return LedgerRow(
        sale_id=sale_id,
        epoch=epoch,
        seq=seq,
        kind=kind,
        order_id=order_id,
        quantity=0,
        delta=after - balance,
        balance=after,
        at=datetime.now(UTC),
        quarantined=evidence(fields),
    )
