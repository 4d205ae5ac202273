"""The states of orders that have their rows, for many polls at once."""

from collections.abc import Sequence

import structlog

from shop import metrics
from shop.database import Database
from shop.failure_isolation import is_transient
from shop.order_states import repository
from shop.order_states.drawing import Drawn, draw_recorded
from shop.order_states.memory import StateMemory
from shop.order_states.polling import Found, Poll, told
from shop.orders.versions import etag_of

log = structlog.get_logger(__name__)


class RecordedReader:
    """Reads versions of states that may be known, to the client or in memory, and whole states of the others."""

    def __init__(self, database: Database, memory: StateMemory) -> None:
        self._database = database
        self._memory = memory

    async def read(self, polls: Sequence[Poll]) -> list[Found]:
        """What each poll is told; None where the order has no row. Raises what says that Postgres is away.

        One that cannot be read is the failure of its own poll.
        """
        try:
            drawn = await self._draw(polls)
        except Exception as error:
            if is_transient(error):
                raise
            if len(polls) == 1:
                return [_failed(error)]
            middle = len(polls) // 2
            return [*await self.read(polls[:middle]), *await self.read(polls[middle:])]
        return [told(poll, drawn.get(poll.order_id)) for poll in polls]

    async def _draw(self, polls: Sequence[Poll]) -> dict[str, Drawn | Exception]:
        drawn: dict[str, Drawn | Exception] = {}
        unread = {poll.order_id: None for poll in polls if poll.known is None and poll.order_id not in self._memory}
        if maybe_known := [poll for poll in polls if poll.order_id not in unread]:
            for order_id, found in (await self._known(maybe_known)).items():
                if found is None:
                    unread[order_id] = None
                else:
                    drawn[order_id] = found
        if unread:
            drawn |= await self._read(list(unread))
        return drawn

    async def _known(self, polls: Sequence[Poll]) -> dict[str, Drawn | None]:
        """Of these orders that have rows, those of which nothing but the version had to be read, and None for others.

        What all who ask for it know is drawn without its body.
        """
        order_ids = list(dict.fromkeys(poll.order_id for poll in polls))
        versions = await repository.versions(self._database, order_ids)
        found: dict[str, Drawn | None] = {}
        for order_id, (user_id, version) in versions.items():
            unread = Drawn(user_id, version, etag_of(version), b"")
            found[order_id] = self._memory.find(order_id, version) or unread
        for poll in polls:
            each = found.get(poll.order_id)
            if each is not None and not each.body and each.user_id == poll.user_id and not poll.knows(each.tag):
                found[poll.order_id] = None
        return found

    async def _read(self, order_ids: list[str]) -> dict[str, Drawn | Exception]:
        drawn: dict[str, Drawn | Exception] = {}
        for order_id, rows in (await repository.states(self._database, order_ids)).items():
            try:
                state = drawn[order_id] = draw_recorded(order_id, rows)
            except Exception as error:  # noqa: BLE001 - it is logged, and told to who asked for it
                drawn[order_id] = _failed(error)
            else:
                self._memory.keep(order_id, state)
        return drawn


def _failed(error: Exception) -> Exception:
    metrics.ITEM_FAILURES.labels("polls").inc()
    log.error("order_state_not_read", reason=repr(error)[:200], exc_info=error)
    return error
