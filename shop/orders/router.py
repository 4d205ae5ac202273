"""Orders over HTTP. A purchase is sold by the lane in front (`shop.seckill.lane`); its contract stands here."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Path, Query, Request, Response

from shop.app_keys import SETTINGS, AppKey
from shop.auth import CurrentUser
from shop.bounds import Digits, Hyphenated, Limit
from shop.cache import CacheDep
from shop.database import see_one_moment
from shop.errors import (
    BadRequest,
    BodyTooLarge,
    IdempotencyKeyInvalid,
    IdempotencyKeyMissing,
    IdempotencyMismatch,
    Invalid,
    NotEnoughStock,
    NotEnoughUnits,
    NotReady,
    NotRecordedYet,
    OrderClosed,
    OrderNotFound,
    OverLimit,
    Overloaded,
    ProductNotFound,
    RateLimited,
    SaleEnded,
    SaleNotFound,
    SaleNotStarted,
    SalePaused,
    SoldOut,
    TooManyOpenOrders,
    Unauthorized,
    Unavailable,
    UnknownOutcome,
    UnsupportedMediaType,
    UserBlocked,
)
from shop.http_headers import headers, matches
from shop.idempotency.keys import parse_key
from shop.idempotency.requests import NeededKey, OptionalKey
from shop.json_bodies import JsonRoute
from shop.ledger.order_ids import SALE_ID_MAX
from shop.orders import claims, placing, repeats, repository, service, versions
from shop.orders.schemas import OrderId, OrderPage, OrderRead, OrderRequest, OrderSummary, PurchaseRead
from shop.paging import link_next
from shop.problem_json import REFUSED_BODIES, problems
from shop.rate_limit import RateLimiter
from shop.rate_limit import limit as admit
from shop.request_session import DATABASE, LEDGER, SessionDep
from shop.seckill.polls import Polls
from shop.seckill.requests import PurchaseRequest
from shop.seckill.waiting import WAIT_SECONDS_MAX

SaleId = Annotated[int, Digits(0, SALE_ID_MAX, SaleNotFound), Path()]
AfterOrder = Annotated[Annotated[UUID, Hyphenated()] | None, Query(description="The last id of the page before.")]
ReceiptHeader = Annotated[str | None, Header(alias="Receipt", max_length=1024, description="The receipt of the 202.")]
KnownTag = Annotated[str | None, Header(alias="If-None-Match", description="The `ETag` of the state that is known.")]
PreferHeader = Annotated[
    str | None, Header(alias="Prefer", description=f"`wait=N` (RFC 7240), N up to {WAIT_SECONDS_MAX} seconds.")
]

PURCHASE_PROBLEMS = problems(
    BadRequest,
    IdempotencyKeyInvalid,
    Unauthorized,
    UserBlocked,
    SaleNotStarted,
    SaleNotFound,
    SoldOut,
    NotEnoughUnits,
    OverLimit,
    SaleEnded,
    BodyTooLarge,
    UnsupportedMediaType,
    Invalid,
    IdempotencyMismatch,
    RateLimited,
    SalePaused,
    NotReady,
    Overloaded,
    UnknownOutcome,
)
PLACE_PROBLEMS = problems(
    *REFUSED_BODIES,
    IdempotencyKeyMissing,
    IdempotencyKeyInvalid,
    Unauthorized,
    UserBlocked,
    ProductNotFound,
    NotEnoughStock,
    TooManyOpenOrders,
    Invalid,
    IdempotencyMismatch,
    RateLimited,
    Unavailable,
    UnknownOutcome,
)
# A browser keeps the answer, and asks each time whether it still holds.
REVALIDATED = {"Cache-Control": "private, no-cache", "Vary": "Authorization"}

ORDER_LIMITER = AppKey[RateLimiter]("order_limiter")
POLLS = AppKey[Polls]("polls")

router = APIRouter(prefix="/v1", route_class=JsonRoute)


@router.post(
    "/seckill/sales/{sale_id}/orders",
    tags=["purchase"],
    summary="Buy units of a sale",
    status_code=202,
    responses={
        200: {
            "model": PurchaseRead,
            "description": "The same request was accepted before: the first order, no second effect.",
            "headers": headers("Location", "Idempotency-Replayed"),
        },
        201: {
            "model": PurchaseRead,
            "description": "Reserved, and recorded in the time that `Prefer: wait=N` gave.",
            "headers": headers("Location", "Preference-Applied"),
        },
        202: {
            "description": "Reserved, durable, and signed: it becomes exactly one order.",
            "headers": headers("Location", "Preference-Applied"),
        },
        **PURCHASE_PROBLEMS,
    },
)
async def purchase(
    sale_id: SaleId,
    wish: PurchaseRequest,
    buyer: CurrentUser,
    request: Request,
    response: Response,
    session: SessionDep,
    idempotency_key: OptionalKey = None,
    prefer: PreferHeader = None,
) -> PurchaseRead:
    """Reserve units of a sale. Without a key, a repeat while the order holds its units, paid or not, is the same order:
    a buyer who may have more sends a new `Idempotency-Key` for each purchase.

    With `Prefer: wait=N` the answer waits up to N seconds for the order's record, and is then 201.

    This route answers what the lane cannot: a repeat from its row, or why nothing can be bought now.
    """
    order = await repeats.repeat(
        session,
        sale_id=sale_id,
        user_id=buyer.user_id,
        key=None if idempotency_key is None else parse_key(idempotency_key),
        quantity=wish.quantity,
        settings=SETTINGS.of(request),
    )
    response.status_code = 200
    response.headers["Location"] = f"/v1/orders/{order.id}"
    response.headers["Idempotency-Replayed"] = "true"
    return order


@router.post(
    "/orders",
    tags=["orders"],
    status_code=201,
    responses={
        200: {
            "model": OrderRead,
            "description": "The same request was made before: its order as it is now, no second effect.",
            "headers": headers("Location", "Idempotency-Replayed"),
        },
        201: {
            "description": "Reserved and recorded; the units are held until `expires_at`.",
            "headers": headers("Location"),
        },
        **PLACE_PROBLEMS,
    },
)
async def place_order(
    wish: OrderRequest,
    buyer: CurrentUser,
    request: Request,
    response: Response,
    session: SessionDep,
    cache: CacheDep,
    idempotency_key: NeededKey,
) -> OrderRead:
    """Order products of the catalogue at its prices, all lines or none. The key makes a retry the same order."""
    await admit(ORDER_LIMITER.of(request), buyer.user_id)
    placed = await placing.place(
        session,
        cache,
        user_id=buyer.user_id,
        key=parse_key(idempotency_key),
        units={line.product_id: line.quantity for line in wish.lines},
        settings=SETTINGS.of(request),
    )
    response.headers["Location"] = f"/v1/orders/{placed.order.id}"
    if placed.replayed:
        response.status_code = 200
        response.headers["Idempotency-Replayed"] = "true"
    return placed.order


@router.get("/orders", tags=["orders"], responses=problems(Unauthorized, UserBlocked, Invalid, Unavailable))
async def list_orders(
    buyer: CurrentUser,
    request: Request,
    response: Response,
    session: SessionDep,
    limit: Limit = 20,
    starting_after: AfterOrder = None,
) -> OrderPage:
    """The buyer's orders, the newest first. An order accepted a moment ago may still be missing: ask for it by id."""
    found = await repository.page(session, buyer.user_id, limit=limit + 1, starting_after=starting_after)
    page = OrderPage(data=[OrderSummary.model_validate(order) for order in found[:limit]], has_more=len(found) > limit)
    link_next(request, response, page.data[-1].id if page.has_more else None, limit=limit)
    return page


@router.get(
    "/orders/{order_id}",
    tags=["orders"],
    response_model=OrderRead,
    responses={
        200: {"headers": headers("ETag")},
        304: {"description": "`If-None-Match` names the state that the order still has.", "headers": headers("ETag")},
        **problems(Unauthorized, UserBlocked, OrderNotFound, Invalid, NotReady, NotRecordedYet, Unavailable),
    },
)
async def read_order(
    order_id: OrderId,
    buyer: CurrentUser,
    request: Request,
    session: SessionDep,
    if_none_match: Annotated[
        str | None, Header(alias="If-None-Match", description="The `ETag` of the known state.")
    ] = None,
    receipt: ReceiptHeader = None,
) -> Response:
    """One order. While its row is on the way it is answered from the ledger, as `reserved`.

    With its receipt, an order that was accepted and that the ledger has lost is restored, within the time that units
    are kept for that.
    """
    await see_one_moment(session)
    if if_none_match is not None:
        found = await repository.versions(session, [order_id], buyer.user_id)
        if found and matches(if_none_match, tag := versions.etag_of(found[order_id])):
            return Response(status_code=304, headers={**REVALIDATED, "ETag": tag})
    ledger, polls = LEDGER.of(request), POLLS.of(request)
    if receipt is None:
        order = await service.read(session, ledger, order_id=order_id, buyer_id=buyer.user_id, polls=polls)
    else:
        await session.close()  # Its connection: the claim takes its own, several times.
        order = await claims.read(
            DATABASE.of(request),
            ledger,
            order_id=order_id,
            buyer_id=buyer.user_id,
            receipt=receipt,
            polls=polls,
            settings=SETTINGS.of(request),
        )
    headers = {**REVALIDATED, "ETag": versions.etag(order)}
    if if_none_match is not None and matches(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(order.model_dump_json(), media_type="application/json", headers=headers)


@router.post(
    "/orders/{order_id}/cancel",
    tags=["orders"],
    responses=problems(
        Unauthorized, UserBlocked, OrderNotFound, OrderClosed, Invalid, NotReady, NotRecordedYet, Unavailable
    ),
)
async def cancel_order(order_id: OrderId, buyer: CurrentUser, request: Request, cache: CacheDep) -> OrderRead:
    """Give the held units back. Cancelling twice is the same as once."""
    return await service.cancel(
        DATABASE.of(request),
        LEDGER.of(request),
        cache,
        order_id=order_id,
        buyer_id=buyer.user_id,
        settings=SETTINGS.of(request),
    )
