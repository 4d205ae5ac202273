"""How the API is served: the server's flags, its sockets and its processes, for `shop api` and for the tests.

Several processes have a listening socket each (SO_REUSEPORT), and the kernel spreads the connections evenly: of a burst
of 256, two processes got 53 and 47 %; with one socket for both, whoever woke first took 67 % in the median, and all of
it under load. The sockets belong to the process that keeps the others: who waits at the socket of a process that was
killed is served by its successor, while a socket of its own would have taken them along, half of a burst.
"""

import asyncio
import select
import signal
import socket
from collections.abc import Sequence
from functools import partial
from types import FrameType
from typing import Any, cast

import structlog
import uvicorn

from shop.descriptors import FOR_PROBES, connections_cap, raise_limit
from shop.listening import BACKLOG
from shop.processes import Lifeline, ProcessPool
from shop.server.connections import STATE, Connections
from shop.server.places import Places
from shop.server.protocol import ShopProtocol
from shop.settings import Settings, get_settings

TICKS_PER_BEAT = 10
CLOSING_SECONDS = 3
FULL_SECONDS, EXHAUSTED_SECONDS = 0.05, 1.0
# What every process of the pool imports; the second for the script that has started us, which they import as well.
PRELOAD = ("shop.app", "shop.cli")

log = structlog.get_logger(__name__)


def server_config(app: Any, settings: Settings, **more: Any) -> uvicorn.Config:
    """The configuration of the server; `app` is an application, or the name of a factory."""
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        http=ShopProtocol,
        access_log=False,
        log_config=None,
        backlog=BACKLOG,
        server_header=False,
        # On every answer: what the shop says is what its type says, and no script.
        headers=[("X-Content-Type-Options", "nosniff")],
        proxy_headers=False,  # the application does it, behind the purchase lane
        limit_concurrency=connections_cap(settings),
        timeout_graceful_shutdown=settings.graceful_stop_seconds,
        **more,
    )


def serve(settings: Settings, listeners: list[socket.socket], *, processes: int) -> int:
    """Serve the API at these sockets until SIGTERM or Ctrl-C, and return the exit status."""
    raise_limit()
    if processes == 1:
        ShopServer(_config_from_environment(settings), listeners).run([])
        return 0
    places = [place % len(listeners) for place in range(processes)]

    def close() -> None:
        for listener in listeners:
            listener.close()

    return ProcessPool(
        _serve_beside_others,
        [(*listeners[place:], *listeners[:place]) for place in places],
        preload=PRELOAD,
        stop_seconds_max=settings.graceful_stop_seconds + CLOSING_SECONDS + 1,
        before_stop=close,
    ).run()


def _serve_beside_others(lifeline: Lifeline, *listeners: socket.socket) -> None:
    ShopServer(_config_from_environment(get_settings()), listeners, lifeline).run([])


def _config_from_environment(settings: Settings) -> uvicorn.Config:
    raise_limit()
    return server_config("shop.app:create_app_from_environment", settings)


class ShopServer(uvicorn.Server):
    """Serves at the first of the listeners until it is asked to stop, and then resets no connection.

    The other listeners are those of the other processes; it helps when one of them cannot. It lets connections in by
    itself: uvicorn's server would go on with it while it stops, and drop who came last.
    """

    def __init__(
        self, config: uvicorn.Config, listeners: Sequence[socket.socket], lifeline: Lifeline | None = None
    ) -> None:
        super().__init__(config)
        self._own, *self._others = listeners
        self._lifeline = lifeline
        self._have_waited: set[socket.socket] = set()
        self._coming: set[asyncio.Future[Any]] = set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop. A second Ctrl-C, or too long a stop, is the kernel's business, whatever state the process is in.

        uvicorn would raise the signal again when it has stopped, and the exit status would be that of an accident.
        """
        self.should_exit = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.alarm((self.config.timeout_graceful_shutdown or 0) + CLOSING_SECONDS)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to serve, and say so."""
        await super().startup([])
        self._begin_to_let_in()
        if self._lifeline is not None:
            self._lifeline.serving()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: what uvicorn does then; once a second, what the other processes need."""
        if self._lifeline is not None and counter % TICKS_PER_BEAT == 0:
            self._lifeline.serving()
            self._relieve()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop after what is in hand, and who waits at a listener is in hand: its last one to close resets them."""
        if self._lifeline is not None:
            self._lifeline.leaving()
        asyncio.get_running_loop().remove_reader(self._own)
        for listener in (*self._others, self._own):
            self._let_in(listener)
            listener.close()
        if self._coming:
            await asyncio.wait(self._coming)
        await super().shutdown([])

    def _begin_to_let_in(self) -> None:
        if self._own.fileno() >= 0:  # It may have been closed meanwhile.
            asyncio.get_running_loop().add_reader(self._own, self._let_in_who_fits, self._own)

    def _let_in_nobody(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._own)
        loop.call_later(seconds, self._begin_to_let_in)

    def _let_in_who_fits(self, listener: socket.socket) -> None:
        """Accept no more than the process may have open, and a few for the probes; the others wait in the kernel."""
        places = self._places
        places.cap = self.config.limit_concurrency or 0
        room = places.cap - len(self.server_state.connections) - len(self._coming)
        if room > 0:
            self._let_in(listener, at_most=min(room, BACKLOG))
            return
        places.make_room(asyncio.get_running_loop().time())
        self._let_in_nobody(FULL_SECONDS)
        if room > -FOR_PROBES:
            self._let_in(listener, at_most=FOR_PROBES + room)

    def _let_in(self, listener: socket.socket, *, at_most: int = BACKLOG) -> None:
        """Accept who waits at a listener."""
        loop, places = asyncio.get_running_loop(), self._places
        try:
            for _ in range(at_most):
                connection, address = listener.accept()
                host = address[0] if address else None
                if not places.admit(host):
                    connection.close()
                    continue
                connection.setblocking(False)
                coming = loop.create_task(loop.connect_accepted_socket(self._protocol, connection))
                self._coming.add(coming)
                coming.add_done_callback(partial(self._came, host))
        except BlockingIOError:
            return
        except OSError as error:  # Out of descriptors, most likely. Who waits may wait until others have left.
            log.warning("nobody_let_in", error=repr(error))
            self._let_in_nobody(EXHAUSTED_SECONDS)

    def _came(self, host: str | None, coming: "asyncio.Future[Any]") -> None:
        self._coming.discard(coming)
        if coming.cancelled() or coming.exception():  # It has hung up already, and nobody wants to know.
            self._places.give_up(host)

    def _relieve(self) -> None:
        """Let in who has waited at the others' listeners since the last look: their process is dead, stuck or late."""
        waiting = {listener for listener in self._others if _has_waiting(listener)}
        for listener in waiting & self._have_waited:
            self._let_in_who_fits(listener)
        self._have_waited = waiting

    @property
    def _places(self) -> Places:
        connections: Connections = self.lifespan.state[STATE]
        return connections.places

    def _protocol(self) -> asyncio.Protocol:
        kind = cast("type[ShopProtocol]", self.config.http_protocol_class)
        return kind(self.config, self.server_state, self.lifespan.state)


def _has_waiting(listener: socket.socket) -> bool:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return bool(poll.poll(0))
