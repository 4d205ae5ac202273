"""The states of orders for those who follow them by event streams: the reader of `shop.orders.order_reader`."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

import redis.asyncio as aioredis

from shop.database import Database
from shop.errors import NotReady
from shop.ledger import client as ledger
from shop.ledger.order_ids import SALE_ID_MAX, sale_of
from shop.order_states import repository
from shop.order_states.drawing import Drawn, draw_recorded, draw_unrecorded
from shop.order_states.repository import Row, SaleTerms
from shop.orders.models import OrderStatus
from shop.orders.order_reader import Found, OrderState
from shop.redis import CONNECTION_ERRORS


class FollowedOrders:
    """Reads orders in one statement; those that have no row yet in the ledgers, in one round trip."""

    def __init__(self, database: Database, redis: aioredis.Redis, *, poll_after_ms: int) -> None:
        """`poll_after_ms` is what one who follows is told: the polls of the process are not meant for them."""
        self._database = database
        self._redis = redis
        self._poll_after_ms = poll_after_ms

    async def read(self, order_ids: Collection[UUID]) -> Mapping[UUID, Found]:
        """See `shop.orders.order_reader.OrderReader`. Raises what says that Postgres is away."""
        named = {str(order_id): order_id for order_id in order_ids}
        rows = await repository.states(self._database, list(named))
        found: dict[UUID, Found] = {named[name]: _recorded(name, rows) for name, rows in rows.items()}
        missing = [order_id for order_id in order_ids if order_id not in found]
        sale_ids = {sale_id for sale_id in map(sale_of, missing) if 0 < sale_id <= SALE_ID_MAX}
        terms = await repository.sale_terms(self._database, list(sale_ids)) if sale_ids else {}
        unrecorded = {each: terms[sale_of(each)] for each in missing if sale_of(each) in terms}
        return found | await self._read_ledgers(unrecorded) if unrecorded else found

    async def _read_ledgers(self, sale_of_order: Mapping[UUID, SaleTerms]) -> dict[UUID, Found]:
        """What the ledgers say of orders of these sales."""
        wanted: dict[tuple[int, int], list[bytes]] = defaultdict(list)
        for order_id, sale in sale_of_order.items():
            wanted[sale.sale_id, sale.epoch].append(order_id.bytes)
        try:
            entries = await ledger.find_orders(self._redis, wanted)
        except CONNECTION_ERRORS:
            return {order_id: NotReady("The ledger cannot be asked at the moment") for order_id in sale_of_order}
        return {
            order_id: self._unrecorded(order_id, sale, entries.get(order_id.bytes))
            for order_id, sale in sale_of_order.items()
        }

    def _unrecorded(self, order_id: UUID, sale: SaleTerms, entry: bytes | Exception | None) -> Found:
        if not isinstance(entry, bytes):
            return entry
        try:
            order = ledger.parse_order(entry)
        except ValueError as error:
            return error
        return _state(draw_unrecorded(str(order_id), sale, order, poll_after_ms=self._poll_after_ms), final=False)


def _recorded(order_id: str, rows: Sequence[Row]) -> Found:
    """The state of an order; what nobody foresaw is its own."""
    try:
        return _state(draw_recorded(order_id, rows), final=is_final(rows[0]))
    except Exception as error:  # noqa: BLE001 - whoever follows it is told
        return error


def is_final(order: Row) -> bool:
    """Whether nothing is awaited any more: it is closed and its units are back, or it is refunded without.

    Money that comes late is told by its timeline and a notification.
    """
    status, closed_at, released_at = order[3], order[13], order[14]
    return status == OrderStatus.REFUNDED if closed_at is None else released_at is not None


def _state(drawn: Drawn, *, final: bool) -> OrderState:
    return OrderState(drawn.user_id, drawn.version, final, drawn.body)
