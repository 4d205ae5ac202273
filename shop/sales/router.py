"""Sales over HTTP: the public list and detail, and the life of a sale for admins."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated

import structlog
from fastapi import APIRouter, Path, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from shop.app_keys import SETTINGS
from shop.auth import ActorDep, CurrentAdmin
from shop.bounds import Digits, Limit
from shop.database import DATABASE_ERRORS, after_commit
from shop.errors import (
    ChangeRefused,
    Invalid,
    NotEnoughStock,
    Overloaded,
    ProductNotFound,
    SaleNotFound,
    SaleStateConflict,
    Unavailable,
    UnknownOutcome,
)
from shop.faults import fault_point
from shop.http_headers import PUBLIC_PAGE, UNCHANGED, headers
from shop.idempotency.requests import KEY_PROBLEMS, REPLAYED, AskedDep
from shop.json_bodies import JsonRoute
from shop.ledger.order_ids import SALE_ID_MAX
from shop.paging import link_next
from shop.problem_json import REFUSED_BODIES, REFUSED_TO_OTHERS, Responses, problems
from shop.request_session import DATABASE, LEDGER, SessionDep
from shop.sales import phase, repository, service
from shop.sales.changes import ChangeOutOfOrder, outcome_of
from shop.sales.loading import load
from shop.sales.models import Sale, SaleChange
from shop.sales.schemas import (
    ChangeRead,
    SaleAdminPage,
    SaleAdminRead,
    SaleCreate,
    SalePage,
    SalePatch,
    SaleRead,
    TimeRead,
    UnitsChange,
    WindowChange,
)

SaleId = Annotated[int, Digits(1, SALE_ID_MAX, SaleNotFound), Path()]
Cursor = Annotated[Annotated[int, Digits(1, SALE_ID_MAX)] | None, Query(description="The last id of the page before.")]

WRITE = (*REFUSED_TO_OTHERS, *REFUSED_BODIES, SaleNotFound, SaleStateConflict)
PENDING: Responses = {202: {"description": "Recorded; the ledger has not answered yet, and will.", "model": ChangeRead}}
OF_A_CHANGE = {**PENDING, **problems(*WRITE, ChangeRefused, UnknownOutcome)}

router = APIRouter(prefix="/v1", route_class=JsonRoute)

log = structlog.get_logger(__name__)


@router.get("/seckill/sales", tags=["sales"], responses={**UNCHANGED, **problems(Invalid, Unavailable)})
async def list_sales(
    request: Request, response: Response, session: SessionDep, limit: Limit = 20, starting_after: Cursor = None
) -> SalePage:
    """The sales, the newest first."""
    sales = await repository.page(session, limit=limit + 1, starting_after=starting_after, statuses=repository.PUBLIC)
    page = phase.read_page(sales, await repository.database_time(session), limit=limit)
    link_next(request, response, page.data[-1].id if page.has_more else None, limit=limit)
    return page


@router.get(
    "/seckill/sales/{sale_id}",
    tags=["sales"],
    responses={**PUBLIC_PAGE, **problems(SaleNotFound, Invalid, Unavailable)},
)
async def read_sale(sale_id: SaleId, session: SessionDep) -> SaleRead:
    """One sale. `GET /v1/time` has the server's time for a countdown to its start."""
    sale = await repository.read(session, sale_id)
    if sale is None or sale.status not in repository.PUBLIC:
        raise SaleNotFound
    return phase.read(sale, await repository.database_time(session))


@router.get("/time", tags=["sales"], responses=problems(Overloaded))
async def read_time() -> TimeRead:
    """The server's time, for countdowns."""
    return TimeRead(server_time=datetime.now(UTC))


@router.get("/admin/sales", tags=["admin"], responses=problems(*REFUSED_TO_OTHERS))
async def list_sales_as_admin(
    admin: CurrentAdmin,
    request: Request,
    response: Response,
    session: SessionDep,
    limit: Limit = 20,
    starting_after: Cursor = None,
) -> SaleAdminPage:
    """All sales, drafts too, the newest first."""
    sales = await repository.page(session, limit=limit + 1, starting_after=starting_after)
    now = await repository.database_time(session)
    page = SaleAdminPage(data=[phase.admin_read(sale, now) for sale in sales[:limit]], has_more=len(sales) > limit)
    link_next(request, response, page.data[-1].id if page.has_more else None, limit=limit)
    return page


@router.get("/admin/sales/{sale_id}", tags=["admin"], responses=problems(*REFUSED_TO_OTHERS, SaleNotFound))
async def read_sale_as_admin(sale_id: SaleId, admin: CurrentAdmin, session: SessionDep) -> SaleAdminRead:
    """One sale with everything."""
    sale = await repository.read(session, sale_id)
    if sale is None:
        raise SaleNotFound
    return await _admin_read(session, sale)


@router.post("/admin/sales", status_code=201, tags=["admin"], responses=problems(*WRITE, ProductNotFound))
async def create_sale(wish: SaleCreate, actor: ActorDep, response: Response, session: SessionDep) -> SaleAdminRead:
    """Make a draft; nothing is on sale yet."""
    sale = await service.create(session, actor, wish)
    response.headers["Location"] = f"/v1/admin/sales/{sale.id}"
    return await _admin_read(session, sale)


@router.patch("/admin/sales/{sale_id}", tags=["admin"], responses=problems(*WRITE))
async def edit_sale(sale_id: SaleId, patch: SalePatch, actor: ActorDep, session: SessionDep) -> SaleAdminRead:
    """Change a draft."""
    return await _admin_read(session, await service.edit(session, actor, sale_id, patch))


@router.post("/admin/sales/{sale_id}/schedule", tags=["admin"], responses=problems(*WRITE, NotEnoughStock))
async def schedule_sale(sale_id: SaleId, actor: ActorDep, request: Request, session: SessionDep) -> SaleAdminRead:
    """Take the units out of the product's stock and load the ledger; the sale opens and ends by itself."""
    sale = await service.schedule(session, actor, sale_id)
    after_commit(session, lambda: _load(request, sale))
    return await _admin_read(session, sale)


@router.post("/admin/sales/{sale_id}/window", tags=["admin"], responses=OF_A_CHANGE)
async def change_window(
    sale_id: SaleId, window: WindowChange, actor: ActorDep, request: Request, response: Response
) -> ChangeRead:
    """Move the window; the start only before it."""
    return await _changed(
        request,
        response,
        lambda session: service.change_window(
            session, actor, sale_id, starts_at=window.starts_at, ends_at=window.ends_at
        ),
    )


@router.post(
    "/admin/sales/{sale_id}/stock",
    tags=["admin"],
    responses={
        200: {"headers": headers(REPLAYED)},
        **PENDING,
        **problems(*WRITE, *KEY_PROBLEMS, ChangeRefused, NotEnoughStock, UnknownOutcome),
    },
)
async def change_units(
    sale_id: SaleId, units: UnitsChange, asked: AskedDep, actor: ActorDep, request: Request, response: Response
) -> ChangeRead:
    """Put units on sale or take some off, never below what is taken. A repeat changes nothing, and tells the outcome.

    After a 202 a repeat is told what became of the change: the answer is final once the ledger has given its own.
    """

    async def ask(session: AsyncSession) -> SaleChange:
        change, replayed = await service.change_units_once(session, actor, sale_id, asked, delta=units.delta)
        if replayed:
            response.headers[REPLAYED] = "true"
        return change

    return await _changed(request, response, ask)


@router.post("/admin/sales/{sale_id}/pause", tags=["admin"], responses=OF_A_CHANGE)
async def pause_sale(sale_id: SaleId, actor: ActorDep, request: Request, response: Response) -> ChangeRead:
    """Refuse purchases until the sale is resumed."""
    return await _changed(request, response, lambda session: service.pause(session, actor, sale_id))


@router.post("/admin/sales/{sale_id}/resume", tags=["admin"], responses=OF_A_CHANGE)
async def resume_sale(sale_id: SaleId, actor: ActorDep, request: Request, response: Response) -> ChangeRead:
    """Sell again."""
    return await _changed(request, response, lambda session: service.resume(session, actor, sale_id))


@router.post("/admin/sales/{sale_id}/close", tags=["admin"], responses=OF_A_CHANGE)
async def close_sale(sale_id: SaleId, actor: ActorDep, request: Request, response: Response) -> ChangeRead:
    """End the sale now; the unsold units go back to the product."""
    return await _changed(request, response, lambda session: service.close(session, actor, sale_id))


async def _changed(
    request: Request, response: Response, ask: Callable[[AsyncSession], Awaitable[SaleChange]]
) -> ChangeRead:
    """Commit a numbered change, then offer it to the ledger; 202 when the ledger does not answer in time."""
    database, settings = DATABASE.of(request), SETTINGS.of(request)
    async with database.transaction() as session:
        change = await ask(session)
        sale = await repository.find(session, change.sale_id)
    fault_point(settings, "before_answer")
    try:
        change = await outcome_of(database, LEDGER.of(request), change, sale.epoch if sale else 0, settings)
    except ChangeRefused as refusal:
        refusal.replayed = REPLAYED in response.headers
        raise
    except (ChangeOutOfOrder, *DATABASE_ERRORS) as error:
        log.warning("change_waits", sale_id=change.sale_id, n=change.n, reason=repr(error)[:200])
    if change.outcome is None:
        response.status_code = 202
    return ChangeRead.model_validate(change)


async def _load(request: Request, sale: Sale) -> None:
    """Load at once; what hinders it is logged, and the controller tries again."""
    await load(DATABASE.of(request), LEDGER.of(request), sale, SETTINGS.of(request))


async def _admin_read(session: AsyncSession, sale: Sale) -> SaleAdminRead:
    return phase.admin_read(sale, await repository.database_time(session))
