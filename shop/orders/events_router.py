"""An order followed over HTTP as server-sent events."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse

from shop.app_keys import SETTINGS, AppKey
from shop.auth import REVOCATIONS, CurrentUser
from shop.client_addresses import counted_as
from shop.database import see_one_moment
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
from shop.order_news import Changes, Listener
from shop.orders import service
from shop.orders.order_stream import OrderReader, is_final, stream
from shop.orders.router import POLLS
from shop.orders.schemas import OrderId
from shop.orders.versions import last_seen, version_of
from shop.problem_json import problems
from shop.request_session import LEDGER, SessionDep

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
# A proxy must neither keep the events nor hold them back until there are more.
HEADERS = {"Cache-Control": "private, no-store", "Vary": "Authorization", "X-Accel-Buffering": "no"}

CHANGES = AppKey[Changes]("changes")
ORDER_READER = AppKey[OrderReader]("order_reader")

router = APIRouter(prefix="/v1", route_class=JsonRoute)


def counted_address(request: Request) -> str | None:
    """What the client's address counts as; None for a trusted proxy, which is many clients."""
    settings = SETTINGS.of(request)
    host = request.client.host if request.client else None
    if settings.proxies.trust_peer(host) or host is None:
        return None
    return counted_as(host, ipv6_prefix_bits=settings.ipv6_client_prefix_bits)


async def _listener(order_id: OrderId, buyer: CurrentUser, request: Request) -> AsyncIterator[Listener]:
    """It listens before the state is read, and until the response is over."""
    address = counted_address(request)
    with CHANGES.of(request).listening(order_id.bytes, account=buyer.user_id, address=address) as listener:
        yield listener


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
    listener: Annotated[Listener, Depends(_listener)],
    session: SessionDep,
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
    await see_one_moment(session)
    order = await service.read(
        session, LEDGER.of(request), order_id=order_id, buyer_id=buyer.user_id, polls=POLLS.of(request)
    )
    seen = last_seen(last_event_id)
    if seen == version_of(order) and is_final(order):
        return Response(status_code=204)
    events = stream(
        order,
        listener,
        ORDER_READER.of(request),
        SETTINGS.of(request),
        seen=seen,
        good_seconds=partial(REVOCATIONS.of(request).good_seconds, buyer),
    )
    return EventSourceResponse(events, headers=HEADERS)
