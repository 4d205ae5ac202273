"""All payments over HTTP, for admins."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from shop.auth import CurrentAdmin
from shop.paging import link_next
from shop.payments.listing import service
from shop.payments.listing.schemas import PaymentAdminPage, PaymentQuery
from shop.problem_json import REFUSED_TO_OTHERS, problems
from shop.request_session import SessionDep

router = APIRouter(prefix="/v1")


@router.get("/admin/payments", tags=["admin"], summary="List all payments", responses=problems(*REFUSED_TO_OTHERS))
async def list_payments_as_admin(
    asked: Annotated[PaymentQuery, Query()],
    admin: CurrentAdmin,
    request: Request,
    response: Response,
    session: SessionDep,
) -> PaymentAdminPage:
    """The payments of all orders, the newest first."""
    page = await service.list_payments(session, asked)
    link_next(request, response, page.data[-1].order_id if page.has_more else None)
    return page
