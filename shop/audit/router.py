"""The audit over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Path, Request

from shop.audit.schemas import AuditReport
from shop.audit.service import audit_sale as audit
from shop.auth import CurrentAdmin
from shop.bounds import Digits
from shop.errors import (
    NotReady,
    SaleNotFound,
    SaleStateConflict,
)
from shop.json_bodies import JsonRoute
from shop.ledger.order_ids import SALE_ID_MAX
from shop.problem_json import REFUSED_TO_OTHERS, problems
from shop.request_session import DATABASE, LEDGER

router = APIRouter(prefix="/v1", route_class=JsonRoute)


@router.get(
    "/admin/sales/{sale_id}/audit",
    tags=["admin"],
    responses=problems(*REFUSED_TO_OTHERS, SaleNotFound, SaleStateConflict, NotReady),
)
async def audit_sale(
    sale_id: Annotated[int, Digits(1, SALE_ID_MAX, SaleNotFound), Path()], admin: CurrentAdmin, request: Request
) -> AuditReport:
    """Prove I1–I6 of a sale from Postgres and Redis at one watermark, and tell what its audits have found so far."""
    return await audit(DATABASE.of(request), LEDGER.of(request), sale_id)
