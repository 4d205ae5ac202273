"""All connections of one process, and what they share: time limits, back-pressure and admission control."""

import asyncio
from collections.abc import Callable

from shop.server.admission import Admission
from shop.server.admission_control import AdmissionControl
from shop.server.back_pressure import BackPressure
from shop.server.connection import Connection, TimeLimits
from shop.server.connection_cap import ConnectionCap
from shop.server.gate import OverloadGate
from shop.server.read_queue import ReadQueue
from shop.server.sending import Outbox
from shop.server.time_limits import cut_late
from shop.settings import Settings

STATE = "connections"


class Connections:
    """Keeps the connections of one process in bounds. After `stop`, each has one more request at most."""

    def __init__(
        self, settings: Settings, admission: Admission, gate: OverloadGate, *, on_stop: Callable[[], None]
    ) -> None:
        """`on_stop` answers those who only wait for news; it is called when the process is asked to stop."""
        self.gate = gate
        self.outbox = Outbox()
        self.cap = ConnectionCap(settings)
        self.back_pressure = BackPressure(gate, is_bulk=admission.is_bulk)
        self.admission = AdmissionControl(admission, cap=self.cap, gate=gate, back_pressure=self.back_pressure)
        self.reads = ReadQueue(admission.read_kinds)
        self.body_bytes_usual = settings.purchase_body_bytes_max
        self.stopping = False
        self._on_stop = on_stop
        self._limits = TimeLimits(settings.request_seconds_max, settings.keep_alive_seconds)
        self._open: set[Connection] = set()

    def opened(self, connection: Connection) -> None:
        """Add a new connection."""
        self._open.add(connection)
        self.cap.opened(connection)
        self.back_pressure.opened(connection)

    def lost(self, connection: Connection) -> None:
        """Forget a connection."""
        self._open.discard(connection)
        self.cap.closed(connection)
        self.back_pressure.lost(connection)
        self.admission.lost(connection)

    def stop(self) -> None:
        """The process is asked to stop."""
        self.stopping = True
        self._on_stop()

    async def keep(self, stopping: asyncio.Event) -> None:
        """Cut what is too slow, and what nobody uses, until `stopping` is set."""
        await cut_late(self._open, self._limits, stopping)
