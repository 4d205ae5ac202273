"""All connections of one process: who keeps it waiting is cut, and under pressure they are read in turns.

A refusal costs about a third of a purchase. While purchases are refused, new ones are set aside as they come, and taken
all at once when those that were admitted leave the loop idle. When so many clients ask that refusing them leaves no
time to sell, the process stops reading: a connection whose purchase was answered or refused rests, and so does a new
one. What they send stays in the kernel, and the proxy and the client feel that. They are read again in their order, one
for each answer that leaves, and a few more for as long as the loop keeps up.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from shop.errors import Overloaded
from shop.server.admission import Admission
from shop.server.answers import Answer
from shop.server.gate import OverloadGate
from shop.server.heads import answer_head
from shop.server.places import Places
from shop.server.sending import Outbox, abort_failed
from shop.settings import Settings
from shop.stopping import rest

if TYPE_CHECKING:
    from shop.server.protocol import ShopProtocol

STATE = "connections"
SWEEPS_PER_LIMIT, SWEPT_AT_ONCE = 10, 64
TURN_SECONDS = 0.005
EXTRA_MIN, EXTRA_MAX = 4, 1024
# A process that used so much of a core lately has no time to spare: whoever is read on top of that is mostly refused.
BUSY_SHARE, LATELY_SECONDS = 0.7, 0.05
# A turn of the loop that is so short has had nothing else to do; and so long new purchases wait for one at most.
IDLE_TURN_SECONDS, ASIDE_SECONDS_MAX = 0.001, 0.1
ASIDE_BYTES_MAX = 32 * 1024

log = structlog.get_logger(__name__)


class Connections:
    """Keeps the connections of one process in bounds."""

    def __init__(
        self, settings: Settings, admission: Admission, gate: OverloadGate, *, on_stop: Callable[[], None]
    ) -> None:
        """`on_stop` answers those who only wait for news; it is called when the process is asked to stop."""
        self.gate = gate
        self.outbox = Outbox()
        self.body_bytes_usual = settings.purchase_body_bytes_max
        self.stop = on_stop
        self._admission = admission
        self._settings = settings
        self.places = Places(settings)
        self._open: set[ShopProtocol] = set()
        self._resting: OrderedDict[ShopProtocol, None] = OrderedDict()
        self._aside: list[ShopProtocol] = []
        # While purchases are refused: a new one waits until the loop has nothing else to do.
        self.setting_aside = False
        self._looked_at = self._taken_at = 0.0
        self._own_headers: list[tuple[bytes, bytes]] | None = None
        self._refusal_start = b""
        self._pressed = False
        self._answers = 0
        self._seen_at = self._seen_cpu = 0.0
        self._extra = EXTRA_MIN

    def opened(self, connection: "ShopProtocol") -> None:
        """Take note of a new connection; under pressure it waits for its turn."""
        self._open.add(connection)
        self.places.take(connection)
        if self._pressed:
            # Not at once: uvloop begins to read when this has returned, whatever was paused before.
            connection.loop.call_soon(self._rest, connection)

    def lost(self, connection: "ShopProtocol") -> None:
        """Forget a connection."""
        self.places.leave(connection)
        self._open.discard(connection)
        self._resting.pop(connection, None)

    def refusal(self, connection: "ShopProtocol", scope: dict[str, Any]) -> bytes | None:
        """What follows `refusal_start` if a request is not even begun, because the process has too much to do.

        What pages of other origins may see is said by the application, so it refuses them by itself.
        """
        if (full := self.places.refusal(connection, scope)) is not None:
            return full
        if self._settings.cors_origins and any(name == b"origin" for name, _ in scope["headers"]):
            return None
        return self._admission.admit(scope)

    def refusal_unparsed(self, data: bytes) -> bytes | None:
        """The same for what may be a whole purchase, if others were refused in this turn already."""
        if not self.gate.refusing or (self._settings.cors_origins and b"\norigin" in data.lower()):
            return None
        return self._admission.admit_unparsed(data)

    def refusal_start(self, own: list[tuple[bytes, bytes]]) -> bytes:
        """The status line of a refusal and the server's own headers, which it replaces once a second."""
        if own is not self._own_headers:
            self._own_headers, self._refusal_start = own, answer_head(Overloaded.status, own, ())
        return self._refusal_start

    def answer(self, scope: dict[str, Any], body: bytes) -> Answer | None:
        """The answer to a whole request that needs nobody to be asked; the application's, where pages may see it."""
        return None if self._settings.cors_origins else self._admission.answer(scope, body)

    def refused(self, connection: "ShopProtocol") -> None:
        """A purchase was refused; under pressure its connection waits for its turn."""
        self._extra = EXTRA_MIN
        if not self._pressed and self.gate.pressed:
            self._pressed, self._answers = True, 0
            self._seen_at, self._seen_cpu = time.monotonic(), time.thread_time()
            connection.loop.call_later(TURN_SECONDS, self._take_turn)
        if self._pressed:
            self._rest(connection)
        elif not self.setting_aside:
            self.setting_aside = True
            self._looked_at = self._taken_at = time.monotonic()
            connection.loop.call_soon(self._look_aside)

    def sets_aside(self, connection: "ShopProtocol", data: bytes) -> bool:
        """Whether this is a purchase, or goes on with one, that waits until the loop has nothing else to do.

        A turn that reads on and on, only to refuse, would make it long for those who were admitted.
        """
        if not connection.aside:
            if not data.startswith(self._admission.bulk_start):
                return False
            self._aside.append(connection)
        elif len(connection.aside) + len(data) > ASIDE_BYTES_MAX:
            return False
        connection.aside += data
        return True

    def _look_aside(self) -> None:
        """Once in each turn of the loop: take what was set aside, if there was nothing else to do."""
        loop, now = asyncio.get_running_loop(), time.monotonic()
        seconds, self._looked_at = now - self._looked_at, now
        if seconds < IDLE_TURN_SECONDS or now - self._taken_at > ASIDE_SECONDS_MAX:
            aside, self._aside = self._aside, []
            for connection in aside:
                if connection.aside:
                    self._alone(connection, connection.receive)
            self._looked_at = self._taken_at = time.monotonic()
            self.setting_aside = self.gate.refusing
        if self.setting_aside:
            loop.call_soon(self._look_aside)

    @staticmethod
    def _alone(connection: "ShopProtocol", act: Callable[[], None]) -> None:
        """Let a connection act; an error is its own alone, because others wait behind it."""
        try:
            act()
        except Exception as error:  # noqa: BLE001 - it is logged and counted
            abort_failed(connection, error)

    def rests(self, connection: "ShopProtocol", scope: dict[str, Any]) -> bool:
        """Whether this connection, whose request was answered, waits for its turn to be read again."""
        self._answers += 1
        if not self._pressed or not self._admission.is_bulk(scope):
            return False
        self._rest(connection)
        return True

    def _rest(self, connection: "ShopProtocol") -> None:
        if connection in self._open:
            connection.pause_reading()
            self._resting[connection] = None

    def _take_turn(self) -> None:
        """Read from the connections that rest longest: one for each answer since the last turn, and a few more.

        Ever more while there is time to spare, for those may be connections that nobody uses; none if the loop is late.
        """
        count, self._answers = self._answers + self._extra, 0
        seconds = time.monotonic() - self._seen_at
        if seconds > LATELY_SECONDS:
            busy = time.thread_time() - self._seen_cpu > BUSY_SHARE * seconds
            self._extra = EXTRA_MIN if busy else min(2 * self._extra, EXTRA_MAX)
            self._seen_at, self._seen_cpu = time.monotonic(), time.thread_time()
        if self.gate.late:
            count, self._extra = 0, EXTRA_MIN
        for _ in range(min(count, len(self._resting))):
            connection = self._resting.popitem(last=False)[0]
            self._alone(connection, connection.resume_reading)
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
            for number, connection in enumerate(tuple(self._open)):
                self._alone(connection, partial(connection.cut_if_late, now, **limits))
                if number % SWEPT_AT_ONCE == 0:
                    await asyncio.sleep(0)  # Others are served meanwhile.
            await rest(stopping, min(limits.values()) / SWEEPS_PER_LIMIT)
