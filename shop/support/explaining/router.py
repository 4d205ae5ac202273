"""The explanation of a refusal over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Path, Request

from shop.app_keys import SETTINGS, AppKey
from shop.auth import CurrentUser
from shop.bounds import Digits
from shop.errors import (
    Invalid,
    NotRecordedYet,
    OrderNotFound,
    RateLimited,
    SaleNotFound,
    StatementForged,
    StatementOfAnotherSale,
    Unauthorized,
    Unavailable,
    UserBlocked,
)
from shop.json_bodies import JsonRoute
from shop.ledger.order_ids import SALE_ID_MAX
from shop.ledger.receipts import Receipt, Witness
from shop.problem_json import REFUSED_BODIES, problems
from shop.rate_limit import RateLimiter
from shop.rate_limit import limit as admit
from shop.request_session import SessionDep
from shop.support.explaining import service
from shop.support.explaining.schemas import ExplainRequest, Explanation

EXPLAIN_LIMITER = AppKey[RateLimiter]("explain_limiter")

router = APIRouter(prefix="/v1", route_class=JsonRoute)


@router.post(
    "/seckill/sales/{sale_id}/explain",
    tags=["sales"],
    summary="Ask why a purchase was refused",
    responses=problems(
        *REFUSED_BODIES,
        Unauthorized,
        UserBlocked,
        SaleNotFound,
        OrderNotFound,
        Invalid,
        StatementForged,
        StatementOfAnotherSale,
        RateLimited,
        NotRecordedYet,
        Unavailable,
    ),
)
async def explain(
    sale_id: Annotated[int, Digits(1, SALE_ID_MAX, SaleNotFound), Path()],
    asked: ExplainRequest,
    buyer: CurrentUser,
    request: Request,
    session: SessionDep,
) -> Explanation:
    """Why did I not get one? Send the `witness` of a refusal, or the `receipt` of an order.

    The statement's signature is checked, and what it says is compared with the recorded ledger. Until the ledger is
    recorded up to that moment the answer is 503 `not_recorded_yet`, for a second or so. Nothing is stored.
    """
    settings = SETTINGS.of(request)
    await admit(EXPLAIN_LIMITER.of(request), buyer.user_id)
    if asked.receipt is not None:
        receipt = service.read_statement(Receipt, asked.receipt, sale_id=sale_id, settings=settings)
        return await service.explain_receipt(session, receipt, user_id=buyer.user_id)
    witness = service.read_statement(Witness, asked.witness or "", sale_id=sale_id, settings=settings)
    return await service.explain_refusal(session, witness, user_id=buyer.user_id)
