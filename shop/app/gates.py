"""A gate for each kind of request behind the door, so that a crowd of one kind leaves the others their goodput.

So many requests of a kind run at a time; those behind them wait in their order, and are refused with 503 when the queue
is full or they have waited for too long. Those that run have the kind's share of the loop's time (`fair_shares`). What
is answered at the door, purchases before all, comes by none of these gates.
"""

import re
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from shop import metrics
from shop.app.fair_shares import Scheduler, Share
from shop.app.problems import send_problem
from shop.errors import Overloaded
from shop.settings import Settings
from shop.waiting_line import LineFull, WaitingLine

MILLISECOND = 0.001


@dataclass(frozen=True)
class Kind:
    """A kind of requests; with its quantum in seconds of each loop iteration, and its bounds."""

    name: str
    quantum_seconds: float
    running_max: int
    waiting_max: int = 2_000


PURCHASES = Kind("purchases", 4 * MILLISECOND, 64)
MONEY = Kind("money", 4 * MILLISECOND, 256)
ORDERS = Kind("orders", 2 * MILLISECOND, 64)
# They have a bound of their own, and last for minutes.
STREAMS = Kind("streams", 2 * MILLISECOND, 1_000_000)
PUBLIC = Kind("public", MILLISECOND, 64)
ACCOUNTS = Kind("accounts", MILLISECOND, 64)
ADMIN = Kind("admin", 2 * MILLISECOND, 64)
OPERATOR = Kind("operator", MILLISECOND, 256)
KINDS = (PURCHASES, MONEY, ORDERS, STREAMS, PUBLIC, ACCOUNTS, ADMIN, OPERATOR)

READS = frozenset({"GET", "HEAD", "OPTIONS"})
# The first that fits the path, for what only reads and for what changes something; the last fits every path.
BY_PATH = (
    (re.compile("/v1/admin/"), ADMIN, ADMIN),
    (re.compile("/v1/seckill/sales/[^/]*/orders$"), PUBLIC, PURCHASES),
    (re.compile("/v1/orders/[^/]*/events$"), STREAMS, MONEY),
    (re.compile("/v1/orders"), ORDERS, MONEY),
    (re.compile("/v1/payments"), MONEY, MONEY),
    (re.compile("/v1/(seckill|products)"), PUBLIC, PUBLIC),
    (re.compile("/v1/"), ACCOUNTS, ACCOUNTS),
    (re.compile(""), OPERATOR, OPERATOR),
)


def kind_of(method: str, path: str) -> Kind:
    """Which kind a request is of."""
    reading, changing = next((reading, changing) for fits, reading, changing in BY_PATH if fits.match(path))
    return reading if method in READS else changing


class Gate(WaitingLine):
    """Admits the requests of one kind, as many as may run at a time; the others wait in their order."""

    def __init__(self, kind: Kind, wait_seconds_max: float) -> None:
        super().__init__(places=kind.running_max, waiting_max=kind.waiting_max)
        self._wait_seconds_max = wait_seconds_max

    async def enter(self) -> None:
        """Return when the request may run; it must leave afterwards. Raises Overloaded, and then it must not."""
        try:
            if not self.enter_at_once():
                await self.wait(self._wait_seconds_max)
        except (LineFull, TimeoutError):
            raise Overloaded from None


class Gates:
    """Lets each request through the gate of its kind, and run within its share."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        scheduler, wait_seconds_max = Scheduler(), settings.request_wait_seconds_max
        self._app = app
        self._gates = {kind: (Gate(kind, wait_seconds_max), scheduler.share(kind.quantum_seconds)) for kind in KINDS}

    def share(self, kind: Kind) -> Share:
        """The share of the loop's time that this kind has, for those of it that are answered in front."""
        return self._gates[kind][1]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        kind = kind_of(scope["method"], scope["path"])
        gate, share = self._gates[kind]
        try:
            await gate.enter()
        except Overloaded as error:
            metrics.GATE_REFUSALS.labels(kind.name).inc()
            await send_problem(error, scope, receive, send)
            return
        try:
            await share.run(self._serve(scope, receive, send))
        finally:
            gate.leave()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)
