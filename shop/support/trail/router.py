"""The trail of an order over HTTP, for admins."""

from fastapi import APIRouter, Request

from shop.auth import CurrentAdmin
from shop.errors import NotReady, OrderNotFound
from shop.json_bodies import JsonRoute
from shop.orders.schemas import OrderId
from shop.problem_json import REFUSED_TO_OTHERS, problems
from shop.request_session import DATABASE, LEDGER
from shop.support.trail.schemas import OrderTrail
from shop.support.trail.service import trail

router = APIRouter(prefix="/v1", route_class=JsonRoute)


@router.get(
    "/admin/orders/{order_id}/trail",
    tags=["admin"],
    responses=problems(*REFUSED_TO_OTHERS, OrderNotFound, NotReady),
)
async def read_trail(order_id: OrderId, admin: CurrentAdmin, request: Request) -> OrderTrail:
    """Everything that happened to one order, in order of time: in the ledger, its rows, its money, who was told.

    An order that is accepted and not recorded yet is told from the ledger alone.
    """
    return await trail(DATABASE.of(request), LEDGER.of(request), order_id)
