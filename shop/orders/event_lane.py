"""`GET /v1/orders/{order_id}/events` as pure ASGI, in front of the application: no session, no model, no middleware.

A crowd that has just bought comes at once, and each stays for minutes. What is odd about a request, and HEAD, goes on
to the ordinary route of the same path, which answers with the same `OrderStream`.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import lru_cache, partial
from typing import Any, NamedTuple
from uuid import UUID

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shop.bounds import HYPHENATED
from shop.client_addresses import counted_as
from shop.errors import ShopError, Unavailable
from shop.failure_isolation import is_transient
from shop.orders.order_stream import OrderStream, Streams
from shop.orders.versions import last_seen
from shop.seckill.checking import Checker
from shop.seckill.requests import REQUEST_ID, RequestIds
from shop.seckill.tally import Tally
from shop.server.answers import Headers, refuse
from shop.settings import Settings

ROUTE = "/v1/orders/{order_id}/events"
PATH = re.compile(f"/v1/orders/({HYPHENATED.pattern})/events")
ADDRESSES_REMEMBERED = 4_096
HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    # A proxy must neither keep the events nor hold them back until there are more.
    (b"cache-control", b"private, no-store"),
    (b"vary", b"Authorization"),
    (b"x-accel-buffering", b"no"),
]


class Asked(NamedTuple):
    """What the headers of a request say; of two of one name the first counts, as on the other routes."""

    authorization: bytes
    last_event_id: str | None
    request_id: bytes | None


class EventLane:
    """The fast way for event streams; every other request passes through to `app`."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        streams: Streams,
        checker: Checker,
        request_ids: RequestIds,
        tally: Tally,
        run: Callable[[Coroutine[Any, Any, None]], Awaitable[None]],
        settings: Settings,
    ) -> None:
        """`run` runs a stream within the share of the loop's time that all streams have."""
        self._app = app
        self._run = run
        self._streams = streams
        self._checker = checker
        self._request_ids = request_ids
        self._tally = tally
        self._address = lru_cache(ADDRESSES_REMEMBERED)(partial(counted_address, settings))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        named = PATH.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "GET" else None
        if named is None:
            await self._app(scope, receive, send)
        else:
            await self._run(self._answer(UUID(named[1]), scope, receive, send))

    async def _answer(self, order_id: UUID, scope: Scope, receive: Receive, send: Send) -> None:
        started, asked = time.perf_counter(), _asked(scope)
        request_id = asked.request_id or self._request_ids.new()
        try:
            with self._begin(order_id, asked, scope) as stream:
                status = 200 if await stream.open() else 204
                self._tally.count(status, None, time.perf_counter() - started)
                await send(start_of(status, (b"x-request-id", request_id)))
                # Kept by the server as long as the stream, and of no use any more.
                scope["headers"].clear()
                await send_events(stream, status, receive, send)
            return
        except ShopError as error:
            refusal = error
        except Exception as error:
            if not is_transient(error):
                self._tally.count(ShopError.status, None)
                raise
            refusal = Unavailable()
        self._tally.count(refusal.status, None, time.perf_counter() - started)
        await refuse(send, refusal, scope["path"], request_id)

    def _begin(self, order_id: UUID, asked: Asked, scope: Scope) -> OrderStream:
        """Raises Unauthorized, UserBlocked, Overloaded or RateLimited."""
        buyer = self._checker.identify(asked.authorization)
        address = self._address(scope["client"][0] if scope["client"] else None)
        return self._streams.begin(order_id, buyer, address=address, seen=last_seen(asked.last_event_id))


def counted_address(settings: Settings, host: str | None) -> str | None:
    """What the client's address counts as; None for a trusted proxy, which is many clients."""
    if settings.proxies.trust_peer(host) or host is None:
        return None
    return counted_as(host, ipv6_prefix_bits=settings.ipv6_client_prefix_bits)


def start_of(status: int, *more: tuple[bytes, bytes]) -> Message:
    """The beginning of the answer: 200 with events, or 204 without."""
    return {"type": "http.response.start", "status": status, "headers": [*(HEADERS if status == 200 else ()), *more]}


async def send_events(stream: OrderStream, status: int, receive: Receive, send: Send) -> None:
    """What follows the start of an answer: the events of a stream that is open, or nothing."""
    if status == 200:
        leaving = asyncio.ensure_future(_until_gone(receive))
        leaving.add_done_callback(partial(_left, stream))
        try:
            await stream.tell(partial(_write, send))
        finally:
            leaving.cancel()
    await send({"type": "http.response.body", "body": b""})


async def _write(send: Send, event: bytes) -> None:
    await send({"type": "http.response.body", "body": event, "more_body": True})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _left(stream: OrderStream, leaving: "asyncio.Future[None]") -> None:
    stream.left()


def _asked(scope: Scope) -> Asked:
    authorization, last_event_id, request_id = None, None, None
    for name, value in scope["headers"]:
        if name == b"authorization":
            authorization = value if authorization is None else authorization
        elif name == b"last-event-id":
            last_event_id = value.decode("latin-1") if last_event_id is None else last_event_id
        elif name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            request_id = value
    return Asked(authorization or b"", last_event_id, request_id)
