"""An order followed over HTTP as server-sent events: the contract of `shop.orders.event_lane`, which answers most."""

from collections.abc import Callable
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from shop.app_keys import SETTINGS, AppKey
from shop.auth import CurrentUser
from shop.errors import (
    Invalid,
    NotReady,
    OrderNotFound,
    Overloaded,
    RateLimited,
    Unauthorized,
    Unavailable,
    UserBlocked,
)
from shop.json_bodies import JsonRoute
from shop.orders.event_lane import counted_address, send_events, start_of
from shop.orders.order_stream import OrderStream, Streams
from shop.orders.schemas import OrderId
from shop.orders.versions import last_seen
from shop.problem_json import problems

EVENT = {
    "type": "object",
    "required": ["data", "id"],
    "properties": {
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/OrderRead"},
        },
        "id": {"type": "string", "examples": ["2"]},
    },
}

STREAMS = AppKey[Streams]("streams")

router = APIRouter(prefix="/v1", route_class=JsonRoute)


class _Following(Response):
    """The answer of a stream, which begins when the answer does."""

    def __init__(self, begin: Callable[[], OrderStream]) -> None:
        super().__init__()
        self._begin = begin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._begin() as stream:
            status = 200 if await stream.open() else 204
            await send(start_of(status))
            await send_events(stream, status, receive, send)


@router.get(
    "/orders/{order_id}/events",
    tags=["orders"],
    # FastAPI would take the route of an EventSourceResponse for a generator, which cannot answer 204.
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Each event is the order as `GET /v1/orders/{order_id}` gives it; its `id` is its version.",
            "content": {"text/event-stream": {"schema": EVENT}},
        },
        204: {"description": "`Last-Event-ID` is the order's last state: only money that comes late could change it."},
        **problems(Unauthorized, UserBlocked, OrderNotFound, Invalid, RateLimited, NotReady, Overloaded, Unavailable),
    },
)
async def follow_order(
    order_id: OrderId,
    buyer: CurrentUser,
    request: Request,
    last_event_id: Annotated[
        str | None,
        Header(
            alias="Last-Event-ID", description="The `id` of the last event that has come: that state is not sent again."
        ),
    ] = None,
) -> Response:
    """The state of an order now, then again at each change, as server-sent events.

    A comment comes when there was nothing else for a while. The stream ends when the order is closed and its units
    are back, and after ten minutes or when the server stops: then come back with `Last-Event-ID`.
    """
    streams, host = STREAMS.of(request), request.client.host if request.client else None
    address, seen = counted_address(SETTINGS.of(request), host), last_seen(last_event_id)
    return _Following(partial(streams.begin, order_id, buyer, address=address, seen=seen))
