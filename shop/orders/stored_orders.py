"""Orders as Postgres and the ledgers have them, many at once, for those who follow them."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from uuid import UUID

import redis.asyncio as aioredis

from shop.database import Database, see_one_moment
from shop.errors import NotReady
from shop.ledger import client as ledger
from shop.ledger.client import parse_order
from shop.ledger.order_ids import SALE_ID_MAX, sale_of
from shop.orders import repository
from shop.orders.models import OrderStatus
from shop.orders.order_reader import Found, OrderState
from shop.orders.schemas import OrderRead
from shop.orders.service import recorded_each, unrecorded
from shop.orders.versions import version_of
from shop.redis import CONNECTION_ERRORS
from shop.sales import repository as sales
from shop.sales.models import Sale


def is_final(order: OrderRead) -> bool:
    """Whether nothing is awaited any more: it is closed and its units are back, or it is refunded without.

    Money that comes late is told by its timeline and a notification.
    """
    if order.closed_at is None:
        return order.status is OrderStatus.REFUNDED
    return order.released_at is not None


class StoredOrders:
    """Reads orders in one transaction; those that have no row yet in the ledgers, in one round trip."""

    def __init__(self, database: Database, redis: aioredis.Redis, *, poll_after_ms: int) -> None:
        self._database = database
        self._redis = redis
        self._poll_after_ms = poll_after_ms

    async def read(self, order_ids: Collection[UUID]) -> dict[UUID, Found]:
        """See `shop.orders.order_reader.OrderReader`. Raises what says that Postgres is away."""
        found: dict[UUID, Found] = {}
        async with self._database.transaction() as session:
            await see_one_moment(session)
            rows = await repository.find_each(session, list(order_ids))
            orders = await recorded_each(session, rows)
            found |= {row.id: _state(row.user_id, orders[row.id]) for row in rows}
            missing = [order_id for order_id in order_ids if order_id not in found]
            sale_ids = {sale_id for sale_id in map(sale_of, missing) if 0 < sale_id <= SALE_ID_MAX}
            of_sale = await sales.with_ledgers(session, sale_ids) if sale_ids else {}
        # No connection to Postgres is held while the ledger is asked.
        unrecorded_of = {each: of_sale[sale_of(each)] for each in missing if sale_of(each) in of_sale}
        return found | await self._read_ledgers(unrecorded_of) if unrecorded_of else found

    async def _read_ledgers(self, sale_of_order: Mapping[UUID, Sale]) -> dict[UUID, Found]:
        """What the ledgers say of orders of these sales."""
        wanted: dict[tuple[int, int], list[bytes]] = defaultdict(list)
        for order_id, sale in sale_of_order.items():
            wanted[sale.id, sale.epoch].append(order_id.bytes)
        try:
            entries = await ledger.find_orders(self._redis, wanted)
        except CONNECTION_ERRORS:
            return {order_id: NotReady("The ledger cannot be asked at the moment") for order_id in sale_of_order}
        return {
            order_id: self._unrecorded(order_id, sale, entries.get(order_id.bytes))
            for order_id, sale in sale_of_order.items()
        }

    def _unrecorded(self, order_id: UUID, sale: Sale, entry: bytes | Exception | None) -> Found:
        if not isinstance(entry, bytes):
            return entry
        try:
            order = parse_order(entry)
        except ValueError as error:
            return error
        read = unrecorded(order_id, sale, order, poll_after_ms=self._poll_after_ms)
        return _state(order.user_id, read)


def _state(user_id: str, order: OrderRead) -> OrderState:
    return OrderState(user_id, version_of(order), is_final(order), order.model_dump_json().encode())
