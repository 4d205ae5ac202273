"""All orders over HTTP, for admins."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from shop.auth import CurrentAdmin
from shop.orders.listing import service
from shop.orders.listing.schemas import OrderAdminPage, OrderQuery
from shop.paging import link_next
from shop.problem_json import REFUSED_TO_OTHERS, problems
from shop.request_session import SessionDep

router = APIRouter(prefix="/v1")


@router.get("/admin/orders", tags=["admin"], summary="List all orders", responses=problems(*REFUSED_TO_OTHERS))
async def list_orders_as_admin(
    asked: Annotated[OrderQuery, Query()],
    admin: CurrentAdmin,
    request: Request,
    response: Response,
    session: SessionDep,
) -> OrderAdminPage:
    """The orders of all buyers, the newest first. Whoever wants one alone asks for its trail."""
    page = await service.list_orders(session, asked)
    link_next(request, response, page.data[-1].id if page.has_more else None)
    return page
