"""The server of one process: its flags, and how it accepts connections and stops."""

import asyncio
import select
import signal
import socket
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import Any

import structlog
import uvicorn
from starlette.types import ASGIApp

from shop.file_descriptors import FOR_PROBES, connections_cap
from shop.listening_sockets import BACKLOG
from shop.processes import ParentPipe
from shop.server.connection_cap import ConnectionCap
from shop.server.connections import STATE, Connections
from shop.server.protocol import ShopProtocol
from shop.settings import Settings
from shop.stopping import CLOSING_SECONDS

TICKS_PER_HEARTBEAT = 10
FULL_SECONDS, EXHAUSTED_SECONDS = 0.05, 1.0

log = structlog.get_logger(__name__)


def server_config(create: Callable[[], ASGIApp], settings: Settings) -> uvicorn.Config:
    """The configuration of a `ShopServer`, which calls `create` for its application when it starts."""
    return uvicorn.Config(
        create,
        factory=True,
        http=ShopProtocol,  # which ShopServer makes by itself; so uvicorn loads none of its own
        access_log=False,
        log_config=None,
        server_header=False,
        # On every answer: what the shop says is what its type says, and no script.
        headers=[("X-Content-Type-Options", "nosniff")],
        proxy_headers=False,  # the application does it, behind the purchase lane
        limit_concurrency=connections_cap(settings),
        timeout_graceful_shutdown=settings.graceful_stop_seconds,
    )


class ShopServer(uvicorn.Server):
    """Serves at the first of the listeners until it is asked to stop, and then resets no connection.

    The other listeners are those of the other processes; it accepts from these when a process cannot. It accepts
    connections by itself: uvicorn's server would go on accepting while it stops, and drop the last ones.
    """

    def __init__(
        self, config: uvicorn.Config, listeners: Sequence[socket.socket], parent_pipe: ParentPipe | None = None
    ) -> None:
        super().__init__(config)
        self._own, *self._others = listeners
        self._parent_pipe = parent_pipe
        self._had_backlog: set[socket.socket] = set()
        self._accepting: set[asyncio.Future[Any]] = set()

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
        self._start_accepting()
        if self._parent_pipe is not None:
            self._parent_pipe.serving()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: what uvicorn does then; once a second, what the other processes need."""
        if self._parent_pipe is not None and counter % TICKS_PER_HEARTBEAT == 0:
            self._parent_pipe.serving()
            self._accept_for_others()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop after all that was begun and the listen backlog: closing a listener resets what still waits in it."""
        if self._parent_pipe is not None:
            self._parent_pipe.leaving()
        asyncio.get_running_loop().remove_reader(self._own)
        for listener in (*self._others, self._own):
            self._accept(listener)
            listener.close()
        if self._accepting:
            await asyncio.wait(self._accepting)
        await super().shutdown([])

    def _start_accepting(self) -> None:
        if self._own.fileno() >= 0:  # It may have been closed meanwhile.
            asyncio.get_running_loop().add_reader(self._own, self._accept_within_cap, self._own)

    def _pause_accepting(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._own)
        loop.call_later(seconds, self._start_accepting)

    def _accept_within_cap(self, listener: socket.socket) -> None:
        """Accept up to the connection cap, and a few for the probes; the others stay in the listen backlog."""
        cap = self._connection_cap
        cap.limit = self.config.limit_concurrency or 0
        room = cap.limit - len(self.server_state.connections) - len(self._accepting)
        if room > 0:
            self._accept(listener, at_most=min(room, BACKLOG))
            return
        cap.close_idle(asyncio.get_running_loop().time())
        self._pause_accepting(FULL_SECONDS)
        if room > -FOR_PROBES:
            self._accept(listener, at_most=FOR_PROBES + room)

    def _accept(self, listener: socket.socket, *, at_most: int = BACKLOG) -> None:
        """Accept from the backlog of a listener."""
        loop, cap = asyncio.get_running_loop(), self._connection_cap
        try:
            for _ in range(at_most):
                connection, address = listener.accept()
                host = address[0] if address else None
                if not cap.admit(host):
                    connection.close()
                    continue
                connection.setblocking(False)
                accepting = loop.create_task(loop.connect_accepted_socket(partial(self._protocol, host), connection))
                self._accepting.add(accepting)
                accepting.add_done_callback(partial(self._accepted, host))
        except BlockingIOError:
            return
        except OSError as error:  # Out of descriptors, most likely: the backlog waits until connections are closed.
            log.warning("accept_failed", error=repr(error))
            self._pause_accepting(EXHAUSTED_SECONDS)

    def _accepted(self, host: str | None, accepting: "asyncio.Future[Any]") -> None:
        self._accepting.discard(accepting)
        if accepting.cancelled() or accepting.exception():  # The client has hung up already.
            self._connection_cap.uncount(host)

    def _accept_for_others(self) -> None:
        """Accept from the others' listeners that had a backlog last time too: their process is dead, stuck or slow."""
        backlog = {listener for listener in self._others if _has_backlog(listener)}
        for listener in backlog & self._had_backlog:
            self._accept_within_cap(listener)
        self._had_backlog = backlog

    @property
    def _connection_cap(self) -> ConnectionCap:
        connections: Connections = self.lifespan.state[STATE]
        return connections.cap

    def _protocol(self, host: str | None) -> ShopProtocol:
        protocol = ShopProtocol(self.config, self.server_state, self.lifespan.state)
        protocol.accepted_from = host
        return protocol


def _has_backlog(listener: socket.socket) -> bool:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return bool(poll.poll(0))
