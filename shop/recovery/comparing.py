"""Whether a fenced ledger still has all that was promised: only then may its epoch go on."""

import redis.asyncio as aioredis
from redis.exceptions import ResponseError

from shop.database import Database
from shop.ledger import client as ledger
from shop.ledger import loading
from shop.ledger.client import LedgerState
from shop.recovery import repository
from shop.sales import repository as sales
from shop.sales.incidents.models import Recovery
from shop.sales.loading import LedgerLost, require_entry_at_watermark
from shop.sales.models import Sale


async def has_lost_nothing(database: Database, client: aioredis.Redis, recovery: Recovery) -> bool:
    """Compare a ledger that is fenced and drained with Postgres and with what the processes saw.

    It must have every order and every buyer, agree in its chain up to the last event, and be at least where any process
    saw it.
    """
    state = await fenced_state(client, recovery)
    if state is None:
        return False
    async with database.transaction() as session:
        await repository.reopen_claims(session, recovery.sale_id)
        await repository.sort_claims(session, recovery.sale_id)
        sale = await sales.find(session, recovery.sale_id)
        counts = await repository.counts(session, recovery.sale_id)
        highest_seq = await repository.highest_seq_seen(session, recovery)
        applied = await sales.last_closed_change(session, recovery.sale_id)
        missing = (await repository.unpersisted(session, sale)).units if sale else 0
    if sale is None or sale.epoch != recovery.from_epoch or missing:
        return False
    if not _agrees(state, sale, applied) or highest_seq > state.seq:
        return False
    if await loading.orders_and_buyers(client, sale.id, sale.epoch) != counts or (any(counts) and not state.has_orders):
        return False
    try:
        await require_entry_at_watermark(database, client, sale)
    except LedgerLost:
        return False
    return True


def _agrees(state: LedgerState, sale: Sale, applied: int) -> bool:
    return state.state != "loading" and (state.seq, state.available, state.held_back, state.applied) == (
        sale.watermark,
        sale.watermark_balance,
        sale.held_back,
        applied,
    )


async def fenced_state(client: aioredis.Redis, recovery: Recovery) -> LedgerState | None:
    """The old ledger, if it is there, can be read and stands behind the fence of this recovery."""
    try:
        state = await ledger.read_state(client, recovery.sale_id, recovery.from_epoch)
    except (ResponseError, KeyError, ValueError):
        return None
    return state if state is not None and loading.is_fenced_by(state.epoch, recovery.n) else None
