"""One connection of a client: HTTP/1.1 as the shop speaks it, run by uvicorn's server.

It is uvicorn's httptools protocol for a crowd: an answer leaves in one write, no timer is set for a request, what
comes too slowly or too large is cut, and what stands behind an unanswered request cannot take its answer away. What
the next byte of a connection means is its `State`.
"""

import asyncio
from collections import deque
from typing import Any, cast

import httptools
from uvicorn import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from shop.errors import BadRequest, HeadTooLarge, RequestTimeout, ShopError
from shop.server.connection import Connection, TimeLimits
from shop.server.connections import STATE, Connections
from shop.server.exchange import Exchange
from shop.server.heads import HEAD_BYTES_MAX, Head, problem_answer
from shop.server.read_queue import START_BYTES, UNREAD_BYTES_MAX
from shop.server.states import BODY, CLOSED, DISCARDING, DRAINING, HEAD, IDLE, LINGERING, State
from shop.server.whole_requests import WholeRequest, begins, parsed

PIPELINED_MAX = 16
# A stopping server answers what comes this long on a connection that was idle, so that it is not closed on a request.
LAST_REQUEST_SECONDS = 0.5


class ShopProtocol(Connection):
    """A connection; its unanswered requests are `exchanges`, the oldest first, and only that one runs."""

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        self._connections: Connections = app_state[STATE]
        self._admission = self._connections.admission
        self._reads = self._connections.reads
        super().__init__(asyncio.get_running_loop(), self._connections.outbox)
        self.app = config.loaded_app
        self.server_state = server_state
        self.state: State = IDLE
        self.exchanges: deque[Exchange | WholeRequest] = deque()
        # The one of the exchanges whose body comes, in the state BODY.
        self._coming: Exchange
        self.head = Head()
        self.on_url, self.on_header = self.head.on_url, self.head.on_header
        self._parser = httptools.HttpRequestParser(self)
        # What has come since the last request was complete; but for what came with the end of that one.
        self._incomplete_bytes = 0
        # Since when it waits for the rest of a request, or, between two requests, for the next one.
        self._since = self.loop.time()
        self._reading_paused = False

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._base_scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": get_local_addr(self.transport),
            "client": get_remote_addr(self.transport),
            "scheme": "https" if is_ssl(self.transport) else "http",
            "root_path": "",
        }
        self.server_state.connections.add(self)  # type: ignore[arg-type]
        self._connections.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server_state.connections.discard(self)
        self._connections.lost(self)
        self.state = CLOSED
        for exchange in self.exchanges:
            exchange.disconnect()
        self.exchanges.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.unread:
            self.unread += data
            if len(self.unread) > UNREAD_BYTES_MAX:
                self.receive_unread()
            return
        queue = self._reads.queues.get(data[:START_BYTES])
        if queue is not None and self._reads.defers(self, data, queue):
            return
        if not (self._admission.deferring and self._admission.defers(self, data)):
            self.receive(data)

    def receive_unread(self) -> None:
        data, self.unread = self.unread, b""
        if data:  # Else it was too much to wait with.
            self.receive(data)

    def receive(self, data: bytes) -> None:
        if self.state >= DRAINING:
            return
        self._connections.gate.count_read()
        if data.startswith(self._admission.bulk_start) and self.idle and begins(self, data, self._admission):
            self._since = self.loop.time()
            return
        self._incomplete_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self.state < DRAINING:
                self._drain()  # It is answered as if it had not asked; what follows is no HTTP.
        except httptools.HttpParserError as error:
            cause = error.__context__
            if self.state < DRAINING:
                self.refuse(cause if isinstance(cause, ShopError) else BadRequest("This is not HTTP/1.1"))
        else:
            if self.state is HEAD:
                if self._incomplete_bytes > HEAD_BYTES_MAX:
                    self.refuse(HeadTooLarge())
            elif self.head.expects_continue:
                self._continue()

    def eof_received(self) -> None:
        """The transport closes; a purchase under way goes on, and its buyer may ask again."""

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self.state is IDLE:
            self.state = HEAD
            self.head.begin()
            self._since = self.loop.time()

    def on_headers_complete(self) -> None:
        if self.state is not HEAD:
            return  # The answer before it was the last one.
        parser = self._parser
        scope = self._base_scope.copy()
        scope["method"] = parser.get_method().decode("ascii")
        version = parser.get_http_version()
        if version != "1.1":
            if version != "1.0":
                raise BadRequest("This is not HTTP/1.1")
            scope["http_version"] = version
        self.head.complete(scope)
        keep_alive = version == "1.1" and parser.should_keep_alive() and not self._connections.stopping
        first = not self.exchanges
        if first and self._refuses(scope, keep_alive=keep_alive):
            return
        self.state = BODY
        exchange = Exchange(self, scope, keep_alive=keep_alive, admitted=first)
        self._coming = exchange
        self.exchanges.append(exchange)
        if len(self.exchanges) > 1:
            self.pause_reading()
            if len(self.exchanges) > PIPELINED_MAX:
                raise BadRequest("Too many requests at once on one connection")

    def on_body(self, body: bytes) -> None:
        if self.state is BODY:
            self._coming.feed(body, unusual=self._connections.body_bytes_usual)
            if self._coming.ready:
                self._start_oldest()

    def on_message_complete(self) -> None:
        self._incomplete_bytes = 0
        if self.state is BODY:
            self.state = IDLE
            self._coming.fed()
            self._start_oldest()
        elif self.state is DISCARDING:
            self.state = IDLE

    # What an exchange calls.

    def close(self) -> None:
        """Take no request any more, and end the connection when what is written has been sent."""
        self.state = CLOSED
        super().close()

    def linger(self) -> None:
        self.state = LINGERING
        super().linger()

    def pause_reading(self) -> None:
        if not self._reading_paused and not self.transport.is_closing():
            self._reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._reading_paused and not self.transport.is_closing():
            self._reading_paused = False
            self._since = self.loop.time()
            self.transport.resume_reading()

    def answered(self, scope: dict[str, Any] | None, keep_alive: bool) -> None:
        self.exchanges.popleft()
        self._since = self.loop.time()
        if not keep_alive:
            self.close()
        elif self.exchanges:
            self._start_oldest()  # Which may answer it, and come back here for the next one.
            if self.exchanges and not self.exchanges[0].ready:
                self.resume_reading()
        elif not self._connections.back_pressure.parks(self, scope):
            self.resume_reading()

    def leave_to_application(self, data: bytes) -> None:
        scope = self._base_scope.copy()
        body = parsed(data, scope)
        exchange = Exchange(self, scope, keep_alive=self.exchanges[0].keep_alive, admitted=True)
        self.exchanges[0] = exchange
        exchange.feed(body, unusual=self._connections.body_bytes_usual)
        exchange.fed()
        exchange.run(self.app)

    # What the server and `Connections` call.

    def shutdown(self) -> None:
        """Stop after the requests in hand; an idle connection may bring a last one for a moment."""
        self._connections.stop()
        self.resume_reading()
        if self.exchanges:
            self.exchanges[-1].keep_alive = False
        elif self.state is IDLE:
            self.loop.call_later(LAST_REQUEST_SECONDS, self._close_if_idle)

    def cut_if_late(self, now: float, limits: TimeLimits) -> None:
        self.abort_if_unread(now)
        if self._reading_paused or self.state >= DRAINING:
            return
        seconds = now - self._since
        if self.state is not IDLE and seconds > limits.request_seconds:
            self.refuse(RequestTimeout())
        elif self.state is IDLE and not self.exchanges and seconds > limits.idle_seconds:
            self.close()

    def refuse(self, error: ShopError) -> None:
        """Read nothing more. Answer the request that is coming with this problem, unless others are unanswered."""
        begun = self.state is DISCARDING
        if self.state is BODY:
            # Where the application runs already, what it has done is unknown: no answer, rather than a wrong one.
            begun = self._coming.runs or self._coming not in self.exchanges
            self._coming.disconnect()
            if self._coming in self.exchanges:
                self.exchanges.remove(self._coming)
        if begun or self.exchanges:
            self._drain()
            return
        self.write(problem_answer(error, self.server_state.default_headers))
        self.resume_reading()
        self.linger()

    def _continue(self) -> None:
        """The client has sent the head and waits to be told that its body is wanted."""
        self.head.expects_continue = False
        if self.state is BODY and len(self.exchanges) == 1:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _start_oldest(self) -> None:
        if self.exchanges:
            self.exchanges[0].start(self.app, self._admission)

    @property
    def idle(self) -> bool:
        return self.state is IDLE and not self.exchanges and not self._connections.stopping

    def _refuses(self, scope: dict[str, Any], *, keep_alive: bool) -> bool:
        """Whether the request is answered without the application. Its body is discarded, or not even waited for."""
        keep_alive = keep_alive and not self.head.expects_continue
        refusal = self._admission.refusal(self, scope, keep_alive=keep_alive)
        if refusal is None:
            return False
        self.write(refusal)
        if keep_alive:
            self.state = DISCARDING
            self._admission.refused(self)
        else:
            self.linger()
        return True

    def _drain(self) -> None:
        """Read nothing more, and end the connection after the answers that are due."""
        if self.exchanges:
            self.state = DRAINING
            self.exchanges[-1].keep_alive = False
        else:
            self.close()

    def _close_if_idle(self) -> None:
        if self.state is IDLE and not self.exchanges:
            self.close()
