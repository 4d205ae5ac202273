"""How an audit reads: Postgres in one snapshot with a watermark, then Redis in one step behind it.

The events above the watermark that are still in the stream lead from the one to the other: nothing has to stand still.
"""

import redis.asyncio as aioredis

from shop.audit.invariants import InRedis
from shop.ledger import client as ledger
from shop.ledger.events import UnreadableEvent, parse_event
from shop.sales.models import Sale


class MovedOn(Exception):
    """The stream was trimmed above the snapshot's watermark: take a newer snapshot."""


async def read_ledger(client: aioredis.Redis, sale: Sale, *, undrained_max: int, standing: bool) -> InRedis:
    """The ledger and its events above the watermark of a sale's row.

    Raises MovedOn when those do not begin right above it, unless the watermark is known to be `standing`: nobody has
    recorded them then, and they are gone.
    """
    state, entries = await ledger.read_state_and_stream(
        client, sale.id, sale.epoch, after=sale.watermark, count=undrained_max
    )
    complete = len(entries) < undrained_max
    try:
        events = [parse_event(*entry) for entry in entries]
    except UnreadableEvent:
        return InRedis(state, complete=complete, readable=False)
    begins = events and events[0].seq == sale.watermark + 1
    if state is not None and state.seq > sale.watermark and not begins and not standing:
        raise MovedOn
    return InRedis(state, events, complete=complete)
