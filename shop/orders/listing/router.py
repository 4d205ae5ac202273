"""All orders over HTTP, for admins."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from shop.auth import CurrentAdmin
from shop.database import SessionDep
from shop.orders import repository as orders
from shop.orders.listing import repository
from shop.orders.listing.schemas import OrderAdminPage, OrderAdminRead, OrderQuery
from shop.orders.models import Order
from shop.orders.schemas import OrderLineRead
from shop.paging import cut, link_next
from shop.problem_json import REFUSED_TO_OTHERS, problems

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
    page = await list_orders(session, asked)
    link_next(request, response, page.data[-1].id if page.has_more else None)
    return page


async def list_orders(session: AsyncSession, asked: OrderQuery) -> OrderAdminPage:
    """A page of all orders with their lines, in two queries. Raises Invalid for an unknown cursor."""
    found, has_more = cut(await repository.page(session, asked), asked.limit)
    return OrderAdminPage(data=await _reads(session, found), has_more=has_more)


async def _reads(session: AsyncSession, found: Sequence[Order]) -> list[OrderAdminRead]:
    lines: dict[UUID, list[OrderLineRead]] = defaultdict(list)
    for line in await orders.lines_of_each(session, [order.id for order in found]):
        lines[line.order_id].append(OrderLineRead.model_validate(line))
    fields = OrderAdminRead.model_fields.keys() - {"object", "lines"}
    return [OrderAdminRead(lines=lines[order.id], **{name: getattr(order, name) for name in fields}) for order in found]
