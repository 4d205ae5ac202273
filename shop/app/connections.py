"""All connections of one process: who keeps it waiting is cut, and under pressure they are read in turns.

A refusal costs about as much as a bare answer. When so many clients ask that refusing them leaves no time to sell, the
process stops reading: a connection whose purchase was answered rests, and so does a new one. What they send stays in
the kernel, and the proxy and the client feel that. They are read again in their order, as fast as answers leave.
"""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from shop.seckill.lane import PurchaseLane, Refusal
from shop.settings import Settings
from shop.stopping import rest

if TYPE_CHECKING:
    from shop.app.protocol import ShopProtocol

STATE = "connections"
SWEEPS_PER_LIMIT = 10
TURN_SECONDS = 0.005
TURN_CONNECTIONS_MIN = 8
TURN_GROWTH = 1.25


class Connections:
    """Keeps the connections of one process in bounds."""

    def __init__(self, settings: Settings, lane: PurchaseLane) -> None:
        self.gate = lane.gate
        self._lane = lane
        self._settings = settings
        self._open: set[ShopProtocol] = set()
        self._resting: deque[ShopProtocol] = deque()
        self._pressed = False
        self._answers = 0

    def opened(self, connection: "ShopProtocol") -> None:
        """Take note of a new connection; under pressure it waits for its turn."""
        self._open.add(connection)
        if self._pressed:
            self._rest(connection)

    def lost(self, connection: "ShopProtocol") -> None:
        """Forget a connection."""
        self._open.discard(connection)

    def refusal(self, scope: dict[str, Any]) -> Refusal | None:
        """The answer to a request that is not even begun, because the process has too much to do."""
        found = self._lane.shed(scope)
        if found is not None and not self._pressed and self.gate.closed_seconds > self._settings.pressure_after_seconds:
            self._pressed = True
            asyncio.get_running_loop().call_later(TURN_SECONDS, self._take_turn)
        return found

    def rests(self, connection: "ShopProtocol", scope: dict[str, Any]) -> bool:
        """Whether this connection, whose request was just answered, waits for its turn to be read again."""
        self._answers += 1
        if not self._pressed or not self._lane.is_purchase(scope):
            return False
        self._rest(connection)
        return True

    def _rest(self, connection: "ShopProtocol") -> None:
        connection.pause_reading()
        self._resting.append(connection)

    def _take_turn(self) -> None:
        """Read from as many resting connections as answers have left since, and a few more, if the loop keeps up."""
        count, self._answers = max(TURN_CONNECTIONS_MIN, int(self._answers * TURN_GROWTH)), 0
        if self.gate.lag_seconds > self._settings.overload_delay_seconds:
            count = 0
        for _ in range(min(count, len(self._resting))):
            self._resting.popleft().resume_reading()
        if self._resting:
            asyncio.get_running_loop().call_later(TURN_SECONDS, self._take_turn)
        else:
            self._pressed = False

    async def keep(self, stopping: asyncio.Event) -> None:
        """Cut what is too slow, and what nobody uses, until `stopping` is set."""
        loop = asyncio.get_running_loop()
        limits = {
            "request_seconds_max": self._settings.request_seconds_max,
            "keep_alive_seconds": self._settings.keep_alive_seconds,
        }
        while not stopping.is_set():
            now = loop.time()
            for connection in tuple(self._open):
                connection.cut_if_late(now, **limits)
            await rest(stopping, min(limits.values()) / SWEEPS_PER_LIMIT)
