"""The states of orders for those who follow them by event streams: the reader of `shop.orders.order_reader`."""

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

import redis.asyncio as aioredis

from shop.database import Database
from shop.order_states import repository
from shop.order_states.drawing import Drawn, draw_recorded, is_final
from shop.order_states.repository import Row
from shop.order_states.unrecorded import Accepted, in_ledgers
from shop.orders.order_reader import Found, OrderState


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
        found: dict[UUID, Found] = {named[name]: _recorded(name, each) for name, each in rows.items()}
        if missing := named.keys() - rows.keys():
            accepted = await in_ledgers(self._database, self._redis, missing)
            found |= {named[name]: self._unrecorded(name, each) for name, each in accepted.items()}
        return found

    def _unrecorded(self, name: str, found: Accepted | Exception) -> Found:
        if isinstance(found, Exception):
            return found
        return _state(found.draw(name, poll_after_ms=self._poll_after_ms), final=False)


def _recorded(order_id: str, rows: Sequence[Row]) -> Found:
    """The state of an order; what nobody foresaw is its own."""
    try:
        return _state(draw_recorded(order_id, rows), final=is_final(rows))
    except Exception as error:  # noqa: BLE001 - whoever follows it is told
        return error


def _state(drawn: Drawn, *, final: bool) -> OrderState:
    return OrderState(drawn.user_id, drawn.version, final, drawn.body)
