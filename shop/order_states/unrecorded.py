"""The states of orders that are accepted and have no row yet: what their sales' ledgers say of them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import redis.asyncio as aioredis

from shop.database import Database
from shop.errors import NotReady
from shop.ledger import client as ledger
from shop.ledger.order_ids import SALE_ID_MAX
from shop.order_states import repository
from shop.order_states.drawing import draw_unrecorded
from shop.order_states.polling import Found, Poll, told
from shop.order_states.repository import SaleTerms
from shop.redis import CONNECTION_ERRORS
from shop.seckill.polls import Polls


class UnrecordedReader:
    """Asks the ledger of each sale once for many polls, in the epoch that the sale has in Postgres."""

    def __init__(self, database: Database, client: aioredis.Redis, polls: Polls) -> None:
        self._database = database
        self._client = client
        self._polls = polls

    async def read(self, polls: Sequence[Poll]) -> list[Found]:
        """What each poll is told; None where the ledger has none of theirs. Raises what says that Postgres is away."""
        sale_ids = {sale_id for poll in polls if 0 < (sale_id := _sale_of(poll)) <= SALE_ID_MAX}
        sales = await repository.sale_terms(self._database, list(sale_ids)) if sale_ids else {}
        wanted: dict[tuple[int, int], list[bytes]] = defaultdict(list)
        for poll in polls:
            if sale := sales.get(_sale_of(poll)):
                wanted[sale.sale_id, sale.epoch].append(_bytes_of(poll))
        try:
            entries = await ledger.find_orders(self._client, wanted) if wanted else {}
        except CONNECTION_ERRORS:
            return [
                NotReady("The ledger cannot be asked at the moment") if _sale_of(poll) in sales else None
                for poll in polls
            ]
        return [self._told(poll, sales, entries) for poll in polls]

    def _told(self, poll: Poll, sales: Mapping[int, SaleTerms], entries: Mapping[bytes, bytes | Exception]) -> Found:
        entry = entries.get(_bytes_of(poll))
        if entry is None or isinstance(entry, Exception):
            return entry
        try:
            order = ledger.parse_order(entry)
        except ValueError as error:
            return error
        if order.user_id != poll.user_id:
            return None
        sale = sales[_sale_of(poll)]
        return told(poll, draw_unrecorded(poll.order_id, sale, order, poll_after_ms=self._polls.after_ms()))


def _sale_of(poll: Poll) -> int:
    return int(poll.order_id[:8], 16)


def _bytes_of(poll: Poll) -> bytes:
    return bytes.fromhex(poll.order_id.replace("-", ""))
