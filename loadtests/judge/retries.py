"""I7: an order's id is unique for ever, and a retry with the same sale, user and key finds it for ever.

What the crowd was promised is asked for again, with the same keys, whatever has become of the orders meanwhile.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loadtests.client.answers import REPLAYED, read_answer
from loadtests.client.http import Address, HttpError, Pool, Response
from loadtests.client.purchases import purchase_path, purchase_request
from loadtests.crowd.record import Attempt
from loadtests.judge.promises import are_unique, promises

RETRIES_MAX = 5_000
CONNECTIONS = 32
CONNECT_SECONDS_MAX, REQUEST_SECONDS_MAX = 5.0, 20.0
TRIES_MAX = 20
PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Retries:
    """What came of it: `retried` promises, how many `found` their order, and whether each id was promised once."""

    retried: int
    found: int
    unique: bool

    @property
    def hold(self) -> bool:
        return self.unique and self.found == self.retried


async def retry(base_url: str, sale_id: int, attempts: Sequence[Attempt], token_of: Mapping[str, str]) -> Retries:
    """Repeat what was promised for a key, of a large crowd a part: every answer must be the first order."""
    promised = promises(attempts)
    keyed = sorted((user, key, min(ids)) for (user, key), ids in promised.items() if key is not None)
    chosen = keyed[:: max(1, len(keyed) // RETRIES_MAX)]
    address = Address.of(base_url)
    pool = Pool(address, size=CONNECTIONS, connect_timeout_seconds=CONNECT_SECONDS_MAX)

    async def finds(user: str, key: str, order_id: str) -> bool:
        request = purchase_request(address, purchase_path(sale_id), token=token_of[user], key=key)
        for _ in range(TRIES_MAX):
            answer = await _exchange(pool, request)
            if answer is None or answer.status in {429, 503, 504}:
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            read = read_answer(answer)
            return (read.code, read.order_id) == (REPLAYED, order_id)
        return False

    try:
        found = await asyncio.gather(*(finds(*each) for each in chosen))
    finally:
        pool.close()
    return Retries(len(chosen), sum(found), are_unique(promised))


async def _exchange(pool: Pool, request: bytes) -> Response | None:
    try:
        return await pool.exchange(request, timeout_seconds=REQUEST_SECONDS_MAX)
    except HttpError:
        return None
