"""The stream of a sale: its events from one of them on, whatever the entries that they came in, and its trimming."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import redis.asyncio as aioredis

from shop.ledger.events import Fields, unpacked
from shop.ledger.keys import ledger_keys

# An entry has from one to 256 events: the first so many say how many to ask for.
ENTRIES_FIRST = 16


def events_in(reply: Iterable[tuple[bytes, Fields]], *, after: int) -> Iterator[tuple[int, Fields]]:
    """The events after this one in an answer of Redis about a stream."""
    return unpacked(((int(number.partition(b"-")[0]), fields) for number, fields in reply), after=after)


async def events_from(
    client: aioredis.Redis, sale_id: int, epoch: int, seq: int, count: int
) -> list[tuple[int, Fields]]:
    """Up to `count` events from `seq` on, that one included."""
    entries_max, key = min(count, ENTRIES_FIRST), ledger_keys(sale_id, epoch).stream
    while True:
        # Each time from the start: what one answer has was there at one moment.
        entries: list[Any] = await client.xrange(key, f"{seq}-0", "+", count=entries_max)
        found = list(islice(events_in(entries, after=seq - 1), count))
        if len(found) == count or len(entries) < entries_max:
            return found
        entries_max = max(2 * entries_max, entries_max * count // max(len(found), 1))


async def wait_for_event(client: aioredis.Redis, sale_id: int, epoch: int, *, after: int, block_seconds: float) -> None:
    """Return when the stream has an event after this one, or when the time is over."""
    key = ledger_keys(sale_id, epoch).stream
    await client.xread({key: f"{after}-0"}, count=1, block=int(block_seconds * 1000))


async def trim(client: aioredis.Redis, sale_id: int, epoch: int, watermark: int) -> None:
    """Drop what is recorded, but keep the entry with the watermark: it ties the stream to what Postgres has."""
    await client.xtrim(ledger_keys(sale_id, epoch).stream, minid=f"{watermark}-0", approximate=False)
