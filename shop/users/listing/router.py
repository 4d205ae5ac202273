"""All accounts over HTTP, for admins."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from shop.auth import CurrentAdmin
from shop.paging import link_next
from shop.problem_json import REFUSED_TO_OTHERS, problems
from shop.request_session import SessionDep
from shop.users.listing import service
from shop.users.listing.schemas import UserAdminPage, UserQuery

router = APIRouter(prefix="/v1")


@router.get("/admin/users", tags=["admin"], summary="List all accounts", responses=problems(*REFUSED_TO_OTHERS))
async def list_users_as_admin(
    asked: Annotated[UserQuery, Query()],
    admin: CurrentAdmin,
    request: Request,
    response: Response,
    session: SessionDep,
) -> UserAdminPage:
    """All accounts, the newest first."""
    page = await service.list_users(session, asked)
    link_next(request, response, page.data[-1].id if page.has_more else None)
    return page
