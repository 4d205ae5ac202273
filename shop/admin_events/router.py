"""What admins did, over HTTP, for admins."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from shop.admin_events import repository
from shop.admin_events.schemas import AdminEventPage, AdminEventQuery, AdminEventRead
from shop.auth import CurrentAdmin
from shop.paging import cut, link_next
from shop.problem_json import REFUSED_TO_OTHERS, problems
from shop.request_session import SessionDep

router = APIRouter(prefix="/v1")


@router.get("/admin/events", tags=["admin"], summary="List what admins did", responses=problems(*REFUSED_TO_OTHERS))
async def list_admin_events(
    asked: Annotated[AdminEventQuery, Query()],
    admin: CurrentAdmin,
    request: Request,
    response: Response,
    session: SessionDep,
) -> AdminEventPage:
    """Who changed what, when and from where, the newest first."""
    found, has_more = cut(await repository.page(session, asked), asked.limit)
    link_next(request, response, found[-1].id if has_more else None)
    return AdminEventPage(data=[AdminEventRead.model_validate(each) for each in found], has_more=has_more)
