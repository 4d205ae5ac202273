"""Whether a request begins: the connection cap, the application's admission, and deferral while purchases are refused.

A refusal costs about a third of a purchase. An iteration that reads on and on, only to refuse, would delay those who
were admitted. So while purchases are refused, new ones are deferred, and handled all at once when those that were
admitted leave the loop idle.
"""

import asyncio
import time
from functools import partial
from typing import Any

from shop.errors import Overloaded
from shop.server.admission import Admission
from shop.server.answers import Reply
from shop.server.back_pressure import BackPressure
from shop.server.connection import Connection
from shop.server.connection_cap import ConnectionCap
from shop.server.gate import OverloadGate
from shop.server.heads import answer_start
from shop.server.sending import alone

# A loop iteration that is so short has had nothing else to do; and so long new purchases wait for one at most.
IDLE_ITERATION_SECONDS, DEFERRED_SECONDS_MAX = 0.001, 0.1
DEFERRED_BYTES_MAX = 32 * 1024


class AdmissionControl:
    """Refuses and defers the requests of one process. While it is `deferring`, ask `defers` about what comes."""

    def __init__(
        self, admission: Admission, *, cap: ConnectionCap, gate: OverloadGate, back_pressure: BackPressure
    ) -> None:
        self.answer = admission.answer
        self.bulk_start = admission.bulk_start
        self.deferring = False
        self._admission = admission
        self._cap = cap
        self._gate = gate
        self._back_pressure = back_pressure
        self._deferred: dict[Connection, bytes] = {}
        self._checked_at = self._handled_at = 0.0

    def refusal(self, connection: Connection, scope: dict[str, Any], *, keep_alive: bool) -> bytes | None:
        """The answer to a request that is not even begun, because the process has too much to do; None for others."""
        refusal = self._cap.refusal(connection, scope)
        if refusal is None:
            refusal = self._admission.admit(scope)
        return None if refusal is None else self._whole(connection, refusal, keep_alive=keep_alive)

    def begin_unparsed(self, connection: Connection, data: bytes, reply: Reply) -> bytes | bool:
        """Begin or refuse what may be a whole purchase, on an idle connection; False leaves it to the parser."""
        if self._cap.is_beyond(connection):
            return False
        begun = self._admission.begin_unparsed(data, reply)
        return begun if isinstance(begun, bool) else self._whole(connection, begun, keep_alive=True)

    def _whole(self, connection: Connection, refusal: bytes, *, keep_alive: bool) -> bytes:
        start = answer_start(Overloaded.status, connection.server_state.default_headers)
        return start + (b"" if keep_alive else b"connection: close\r\n") + refusal

    def refused(self, connection: Connection) -> None:
        """A request was refused, and its connection stays: it is parked while saturated, else new ones are deferred."""
        if not self._back_pressure.refused(connection) and not self.deferring:
            self.deferring = True
            self._checked_at = self._handled_at = time.monotonic()
            connection.loop.call_soon(self._handle_deferred)

    def defers(self, connection: Connection, data: bytes) -> bool:
        """Whether this is a purchase, or goes on with one, that is deferred until the loop has nothing else to do."""
        before = self._deferred.get(connection)
        if before is None:
            if not (connection.idle and data.startswith(self.bulk_start)):
                return False
            self._deferred[connection] = data
        elif len(before) + len(data) > DEFERRED_BYTES_MAX:
            del self._deferred[connection]
            connection.receive(before + data)
        else:
            self._deferred[connection] = before + data
        return True

    def lost(self, connection: Connection) -> None:
        """Forget a connection."""
        self._deferred.pop(connection, None)

    def _handle_deferred(self) -> None:
        """Once in each loop iteration: handle what was deferred, if there was nothing else to do."""
        now = time.monotonic()
        seconds, self._checked_at = now - self._checked_at, now
        if seconds < IDLE_ITERATION_SECONDS or now - self._handled_at > DEFERRED_SECONDS_MAX:
            deferred, self._deferred = self._deferred, {}
            for connection, data in deferred.items():
                alone(connection, partial(connection.receive, data))
            self._checked_at = self._handled_at = time.monotonic()
            self.deferring = self._gate.refusing
        if self.deferring:
            asyncio.get_running_loop().call_soon(self._handle_deferred)
