"""One connection of a client: HTTP/1.1 as the shop speaks it, run by uvicorn's server.

It is uvicorn's httptools protocol for a crowd: an answer leaves in one write, no timer is set for a request, what
comes too slowly or too large is cut, and what stands behind an unanswered request cannot take its answer away.
"""

import asyncio
from collections import deque
from typing import Any, cast

import httptools
from uvicorn import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from shop.errors import BadRequest, HeadTooLarge, RequestTimeout, ShopError
from shop.server.connections import STATE, Connections
from shop.server.exchange import Exchange
from shop.server.heads import NO_HOST, problem_answer, set_target, valid_host
from shop.server.sending import SendingProtocol

HEAD_BYTES_MAX = 32 * 1024
HEADERS_MAX = 100
PIPELINED_MAX = 16
# A stopping server answers what comes this long on a connection that was idle, so that it is not closed on a request.
LAST_REQUEST_SECONDS = 0.5


class ShopProtocol(SendingProtocol):
    """A connection; its unanswered requests are `exchanges`, the oldest first, and only that one runs."""

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        self._connections: Connections = app_state[STATE]
        super().__init__(asyncio.get_running_loop(), self._connections.outbox)
        self.app = config.loaded_app
        self.server_state = server_state
        # The address that it is counted for: of a peer that has reset the connection, the socket knows none any more.
        self.accepted_from: str | None = None
        self.exchanges: deque[Exchange] = deque()
        self._parser = httptools.HttpRequestParser(self)
        self._closing = False
        self._stopping = False
        self._reading_paused = False
        # Since when it waits for the rest of a request, or, between two requests, for the next one.
        self._since = self.loop.time()
        self._incomplete = False
        self._coming: Exchange | None = None
        self._in_head = False
        self._refused_early = False
        self._head_bytes = self._unparsed_bytes = self._codings = 0
        self._ended_another = False
        self._asked_to_go_on = True
        self._hosts, self.host = 0, NO_HOST
        self.deferred = b""

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
        self._closing = True
        self.deferred = b""
        for exchange in self.exchanges:
            exchange.disconnect()
        self.exchanges.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        may_wait = self.deferred or (self._connections.deferring and self._idle)
        if not (may_wait and self._connections.defers(self, data)):
            self.receive(data)

    def receive(self, data: bytes = b"") -> None:
        """Go on with what was deferred, if anything was, and with what has come now."""
        if self.deferred:
            data, self.deferred = self.deferred + data, b""
        if self._closing:
            return
        self._connections.gate.count_read()
        self._ended_another = False
        if self._connections.gate.refusing and self._idle and (shed := self._connections.refusal_unparsed(data)):
            self._since = self.loop.time()
            self._refuse_early(shed, keep_alive=True)
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._close_after_last()  # It is answered as if it had not asked; what follows is no HTTP.
        except httptools.HttpParserError as error:
            cause = error.__context__
            if not self._closing:
                self.refuse(cause if isinstance(cause, ShopError) else BadRequest("This is not HTTP/1.1"))
        else:
            if self._in_head and not self._ended_another:
                self._unparsed_bytes += len(data)
                if self._unparsed_bytes > HEAD_BYTES_MAX:
                    self.refuse(HeadTooLarge())
            elif not self._asked_to_go_on:
                self._ask_to_go_on()

    def eof_received(self) -> None:
        """The transport closes; a purchase under way goes on, and its buyer may ask again."""

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._coming = None
        self._incomplete = self._in_head = True
        self._refused_early = False
        self._head_bytes = self._unparsed_bytes = self._hosts = self._codings = 0
        self._since = self.loop.time()

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > HEAD_BYTES_MAX or len(self._headers) >= HEADERS_MAX:
            raise HeadTooLarge
        if self._in_head:  # A trailer is read, and is no header.
            name, value = name.lower(), value.rstrip(b" \t")
            self._headers.append((name, value))
            if name == b"host":
                self._hosts += 1
                if value != self.host:
                    self.host = valid_host(value)
            elif name == b"expect" and value.lower() == b"100-continue":
                self._asked_to_go_on = False
            elif name == b"transfer-encoding":
                # Another coding before it, or a second field, is read differently by different parsers (RFC 9112, 6.1).
                self._codings += 1
                if self._codings > 1 or value.lower() != b"chunked":
                    raise BadRequest("The only transfer coding is chunked")

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._closing:
            return  # The answer before it was the last one.
        parser = self._parser
        scope = self._base_scope.copy()
        scope["headers"] = self._headers
        scope["method"] = parser.get_method().decode("ascii")
        version = parser.get_http_version()
        if version != "1.1":
            if version != "1.0":
                raise BadRequest("This is not HTTP/1.1")
            scope["http_version"] = version
        if self._hosts != 1 and (self._hosts or version == "1.1"):
            raise BadRequest("A request has one Host")
        set_target(scope, self._url)
        keep_alive = version == "1.1" and parser.should_keep_alive() and not self._stopping
        first = not self.exchanges
        if first and (refusal := self._connections.refusal(self, scope)) is not None:
            self._refuse_early(refusal, keep_alive=keep_alive)
            return
        exchange = Exchange(self, scope, keep_alive=keep_alive, admitted=first)
        self._coming = exchange
        self.exchanges.append(exchange)
        if len(self.exchanges) > 1:
            self.pause_reading()
            if len(self.exchanges) > PIPELINED_MAX:
                raise BadRequest("Too many requests at once on one connection")

    def on_body(self, body: bytes) -> None:
        if self._coming is not None:
            self._coming.feed(body, unusual=self._connections.body_bytes_usual)
            if self._coming.ready:
                self._start_oldest()

    def on_message_complete(self) -> None:
        self._ended_another = True
        self._incomplete = False
        if self._coming is not None:
            self._coming.fed()
            self._start_oldest()

    # What an exchange calls.

    def close(self) -> None:
        """Take no request any more, and end the connection when what is written has been sent."""
        self._closing = True
        super().close()

    def pause_reading(self) -> None:
        if not self._reading_paused and not self.transport.is_closing():
            self._reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._reading_paused and not self.transport.is_closing():
            self._reading_paused = False
            self._since = self.loop.time()
            self.transport.resume_reading()

    def answered(self, exchange: Exchange) -> None:
        """Go on after an answer is complete."""
        self.exchanges.popleft()
        self._since = self.loop.time()
        if not exchange.keep_alive:
            self.close()
        elif self.exchanges:
            self._start_oldest()  # Which may answer it, and come back here for the next one.
            if self.exchanges and not self.exchanges[0].ready:
                self.resume_reading()
        elif not self._connections.parks(self, exchange.scope):
            self.resume_reading()

    # What the server and `Connections` call.

    def shutdown(self) -> None:
        """Stop after the requests in hand; an idle connection may bring a last one for a moment."""
        self._stopping = True
        self._connections.stop()
        self.resume_reading()
        if self.exchanges:
            self.exchanges[-1].keep_alive = False
        elif not self._incomplete:
            self.loop.call_later(LAST_REQUEST_SECONDS, self._close_if_idle)

    def cut_if_late(self, now: float, *, request_seconds_max: float, keep_alive_seconds: float) -> None:
        """Refuse a request that takes too long to come; close a connection that nobody uses, or reads."""
        self.abort_if_unread(now)
        if self._reading_paused or self._closing:
            return
        if self._incomplete and now - self._since > request_seconds_max:
            self.refuse(RequestTimeout())
        elif not self._incomplete and not self.exchanges and now - self._since > keep_alive_seconds:
            self.close()

    def refuse(self, error: ShopError) -> None:
        """Read nothing more. Answer the request that is coming with this problem, unless others are unanswered."""
        coming, self._closing = self._coming if self._incomplete else None, True
        # Where the application runs already, what it has done is unknown: no answer, rather than a wrong one.
        begun = self._refused_early or (coming is not None and (coming.runs or coming not in self.exchanges))
        if coming is not None:
            coming.disconnect()
            if coming in self.exchanges:
                self.exchanges.remove(coming)
        if self.exchanges:
            self.exchanges[-1].keep_alive = False
            return
        if begun:
            self.close()
            return
        self.write(problem_answer(error, self.server_state.default_headers))
        self.resume_reading()
        self.linger()

    def _ask_to_go_on(self) -> None:
        """The client has sent the head and waits to be told that its body is wanted."""
        self._asked_to_go_on = True
        if self._incomplete and not self._closing and len(self.exchanges) == 1:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _start_oldest(self) -> None:
        if self.exchanges:
            self.exchanges[0].start(self.app, self._connections)

    @property
    def _idle(self) -> bool:
        """Whether the next byte begins a request that may be answered."""
        return not (self._incomplete or self.exchanges or self._stopping or self._closing)

    def _refuse_early(self, refusal: bytes, *, keep_alive: bool) -> None:
        """Answer without the application. The body is read and forgotten, unless the client waits to be asked."""
        self._refused_early = True
        self._closing = not (keep_alive and self._asked_to_go_on)
        self.write(self._connections.refusal_start(self, keep_alive=not self._closing) + refusal)
        if self._closing:
            self.linger()
        else:
            self._connections.refused(self)

    def _close_after_last(self) -> None:
        self._closing = True
        if self.exchanges:
            self.exchanges[-1].keep_alive = False
        else:
            self.close()

    def _close_if_idle(self) -> None:
        if not self.exchanges and not self._incomplete:
            self.close()
