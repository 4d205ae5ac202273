"""All payments over HTTP, for admins."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from shop.auth import CurrentAdmin
from shop.database import SessionDep
from shop.paging import cut, link_next
from shop.payments.listing import repository
from shop.payments.listing.schemas import PaymentAdminPage, PaymentAdminRead, PaymentQuery
from shop.payments.models import Payment, RefundStatus
from shop.problem_json import REFUSED_TO_OTHERS, problems

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
    page = await list_payments(session, asked)
    link_next(request, response, page.data[-1].order_id if page.has_more else None)
    return page


async def list_payments(session: AsyncSession, asked: PaymentQuery) -> PaymentAdminPage:
    """A page of all payments. Raises Invalid for an unknown cursor."""
    found, has_more = cut(await repository.page(session, asked), asked.limit)
    return PaymentAdminPage(data=[_read(*row) for row in found], has_more=has_more)


def _read(payment: Payment, user_id: str, refund_status: RefundStatus | None) -> PaymentAdminRead:
    fields = PaymentAdminRead.model_fields.keys() - {"object", "user_id", "refund_status"}
    shown = {name: getattr(payment, name) for name in fields}
    return PaymentAdminRead(user_id=user_id, refund_status=refund_status, **shown)
