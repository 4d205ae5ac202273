"""The states of orders that are accepted and have no row yet: what their sales' ledgers say of them."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import redis.asyncio as aioredis

from shop.database import Database
from shop.errors import NotReady
from shop.ledger import client as ledger
from shop.ledger.client import LedgerOrder
from shop.ledger.order_ids import SALE_ID_MAX
from shop.order_states import repository
from shop.order_states.drawing import Drawn, draw_unrecorded
from shop.order_states.polling import Found, Poll, told
from shop.order_states.repository import SaleTerms
from shop.redis import CONNECTION_ERRORS
from shop.seckill.polls import Polls


class Accepted(NamedTuple):
    """An order as it stands in the ledger of its sale."""

    sale: SaleTerms
    order: LedgerOrder

    def draw(self, order_id: str, *, poll_after_ms: int) -> Drawn:
        """Its state."""
        return draw_unrecorded(order_id, self.sale, self.order, poll_after_ms=poll_after_ms)


async def in_ledgers(
    database: Database, client: aioredis.Redis, order_ids: Collection[str]
) -> dict[str, Accepted | Exception]:
    """Those of these orders that ledgers have, in the epochs of Postgres, each or what went wrong with it alone.

    The ledger of each sale is asked once. Raises what says that Postgres is away.
    """
    sale_ids = {sale_id for order_id in order_ids if 0 < (sale_id := _sale_of(order_id)) <= SALE_ID_MAX}
    terms = await repository.sale_terms(database, list(sale_ids)) if sale_ids else {}
    sales = {order_id: sale for order_id in order_ids if (sale := terms.get(_sale_of(order_id))) is not None}
    if not sales:
        return {}
    wanted: dict[tuple[int, int], list[bytes]] = defaultdict(list)
    for order_id, sale in sales.items():
        wanted[sale.sale_id, sale.epoch].append(_bytes_of(order_id))
    try:
        entries = await ledger.find_orders(client, wanted)
    except CONNECTION_ERRORS:
        return {order_id: NotReady("The ledger cannot be asked at the moment") for order_id in sales}
    found = {order_id: _accepted(sale, entries.get(_bytes_of(order_id))) for order_id, sale in sales.items()}
    return {order_id: each for order_id, each in found.items() if each is not None}


class UnrecordedReader:
    """Says what polls of orders without a row are told."""

    def __init__(self, database: Database, client: aioredis.Redis, polls: Polls) -> None:
        self._database = database
        self._client = client
        self._polls = polls

    async def read(self, polls: Sequence[Poll]) -> list[Found]:
        """What each poll is told; None where the ledger has none of theirs. Raises what says that Postgres is away."""
        accepted = await in_ledgers(self._database, self._client, {poll.order_id for poll in polls})
        return [self._told(poll, accepted) for poll in polls]

    def _told(self, poll: Poll, accepted: Mapping[str, Accepted | Exception]) -> Found:
        found = accepted.get(poll.order_id)
        if not isinstance(found, Accepted):
            return found
        if found.order.user_id != poll.user_id:
            return None
        return told(poll, found.draw(poll.order_id, poll_after_ms=self._polls.after_ms()))


def _accepted(sale: SaleTerms, entry: bytes | Exception | None) -> Accepted | Exception | None:
    if entry is None or isinstance(entry, Exception):
        return entry
    try:
        return Accepted(sale, ledger.parse_order(entry))
    except ValueError as error:
        return error


def _sale_of(order_id: str) -> int:
    return int(order_id[:8], 16)


def _bytes_of(order_id: str) -> bytes:
    return bytes.fromhex(order_id.replace("-", ""))
