"""Payments over HTTP: for buyers, for the provider, and for admins who refund."""

from fastapi import APIRouter, Request, Response

from shop.app_keys import SETTINGS, AppKey
from shop.auth import ActorDep, CurrentAdmin, CurrentUser
from shop.errors import (
    BodyTooLarge,
    Forbidden,
    IdempotencyKeyInvalid,
    IdempotencyKeyMissing,
    Invalid,
    NotReady,
    NotRecordedYet,
    OrderClosed,
    OrderNotFound,
    OrderNotPaid,
    OrderPaid,
    PaymentOver,
    ProviderUnavailable,
    Unauthorized,
    Unavailable,
    UnknownOutcome,
    UserBlocked,
    WebhookInvalid,
    WebhookUnsigned,
)
from shop.http_headers import headers
from shop.idempotency.keys import parse_key
from shop.idempotency.requests import KEY_PROBLEMS, REPLAYED, AskedDep, NeededKey, answer
from shop.idempotency.service import once
from shop.json_bodies import JsonRoute
from shop.orders.schemas import OrderId
from shop.payments import service
from shop.payments.events import ingest
from shop.payments.gateway import Gateway
from shop.payments.returning import check_return_url
from shop.payments.schemas import MoneyReport, PaymentRead, PaymentRequest, RefundRead, RefundRequest
from shop.payments.totals import repository as totals
from shop.payments.webhook_signature import parse_webhook
from shop.problem_json import REFUSED_BODIES, problems
from shop.request_session import DATABASE, LEDGER, SessionDep

# A body may be left out, and is no `null` then: some generators of clients cannot send one that may be either.
WITHOUT_WISH = PaymentRequest()

GATEWAY = AppKey[Gateway]("gateway")

router = APIRouter(prefix="/v1", route_class=JsonRoute)


@router.post(
    "/orders/{order_id}/payment",
    tags=["orders"],
    status_code=201,
    responses={
        200: {
            "model": PaymentRead,
            "description": "A request with this key has started it before: the payment as it is now.",
            "headers": headers(REPLAYED),
        },
        **problems(
            *REFUSED_BODIES,
            IdempotencyKeyMissing,
            IdempotencyKeyInvalid,
            Unauthorized,
            UserBlocked,
            OrderNotFound,
            OrderPaid,
            OrderClosed,
            PaymentOver,
            Invalid,
            NotReady,
            NotRecordedYet,
            ProviderUnavailable,
            UnknownOutcome,
        ),
    },
)
async def start_payment(
    order_id: OrderId,
    buyer: CurrentUser,
    request: Request,
    response: Response,
    idempotency_key: NeededKey,
    wish: PaymentRequest = WITHOUT_WISH,
) -> PaymentRead:
    """Say where to pay. An order has one payment: asking again gives the same one, and never extends the hold.

    If the provider has ended it unpaid, asking again begins the next attempt while the hold lasts.
    """
    key = parse_key(idempotency_key)
    settings = SETTINGS.of(request)
    return_url = None if wish.return_url is None else check_return_url(wish.return_url, settings)
    started = await service.start(
        DATABASE.of(request),
        LEDGER.of(request),
        GATEWAY.of(request),
        order_id=order_id,
        buyer_id=buyer.user_id,
        settings=settings,
        key=key,
        return_url=return_url,
    )
    if started.replayed:
        response.status_code = 200
        response.headers[REPLAYED] = "true"
    return started.payment


@router.post(
    "/payments/webhook",
    tags=["payments"],
    status_code=204,
    responses=problems(WebhookInvalid, WebhookUnsigned, BodyTooLarge, Unavailable, UnknownOutcome),
)
async def receive_webhook(request: Request, session: SessionDep) -> None:
    """Take an event of the payment provider, once, in any order (Standard Webhooks)."""
    event = parse_webhook(SETTINGS.of(request), request.headers, await request.body())
    await ingest(session, event)


@router.post(
    "/admin/orders/{order_id}/refund",
    tags=["admin"],
    status_code=202,
    response_model=RefundRead,
    responses={
        202: {"headers": headers("Idempotency-Replayed")},
        **problems(
            *REFUSED_BODIES,
            *KEY_PROBLEMS,
            Unauthorized,
            Forbidden,
            UserBlocked,
            OrderNotFound,
            OrderNotPaid,
            Invalid,
            Unavailable,
            UnknownOutcome,
        ),
    },
)
async def refund_order(
    order_id: OrderId, wish: RefundRequest, asked: AskedDep, actor: ActorDep, request: Request, session: SessionDep
) -> Response:
    """Give all the money of a paid order back, with or without its units. A repeat refunds nothing more."""

    async def work() -> RefundRead:
        return await service.refund(
            session,
            DATABASE.of(request),
            LEDGER.of(request),
            actor,
            order_id=order_id,
            wish=wish,
            settings=SETTINGS.of(request),
        )

    return answer(await once(session, asked, work, status=202))


@router.get(
    "/admin/reports/money",
    tags=["admin"],
    responses=problems(Unauthorized, Forbidden, UserBlocked, Unavailable, NotReady),
)
async def read_money(admin: CurrentAdmin, session: SessionDep) -> MoneyReport:
    """Prove I11: all captured money is paid, refunded, about to be refunded, or waits to be settled.

    The sums are of one moment. They are not ready while very many payments wait to be counted, as after an upgrade.
    """
    return service.money_report(await totals.money(session))
