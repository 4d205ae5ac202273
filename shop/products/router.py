"""The catalogue over HTTP: everyone reads it through the cache, admins change it."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from shop.auth import ActorDep, CurrentAdmin
from shop.bounds import ROW_ID_MAX, Digits, Limit, WrittenId
from shop.cache import CacheDep
from shop.errors import (
    Invalid,
    NotEnoughStock,
    ProductNotFound,
    Unavailable,
    UnknownOutcome,
)
from shop.http_headers import PUBLIC_PAGE, UNCHANGED, headers
from shop.idempotency.requests import KEY_PROBLEMS, AskedDep, answer
from shop.idempotency.service import once
from shop.json_bodies import JsonRoute
from shop.paging import next_link
from shop.problem_json import REFUSED_BODIES, REFUSED_TO_OTHERS, problems
from shop.products import repository, service
from shop.products.hot import HotProductsDep
from shop.products.reading import ProductReaderDep
from shop.products.schemas import (
    AdminProductPage,
    AdminProductRead,
    ProductCreate,
    ProductPage,
    ProductPatch,
    ProductRead,
    StockChange,
)
from shop.request_session import DATABASE, SessionDep

ProductId = Annotated[int, Digits(1, ROW_ID_MAX, ProductNotFound), Path()]
StartingAfter = Annotated[WrittenId | None, Query(description="The last id of the page before.")]

router = APIRouter(prefix="/v1", route_class=JsonRoute)


@router.get(
    "/products",
    tags=["products"],
    response_model=ProductPage,
    responses={**UNCHANGED, **problems(Invalid, Unavailable)},
)
async def list_products(
    request: Request, cache: CacheDep, limit: Limit = 20, starting_after: StartingAfter = None
) -> Response:
    """The catalogue, newest first."""
    page = await service.read_public_page(DATABASE.of(request), cache, limit=limit, starting_after=starting_after)
    return _json(page.body, _next_link("/v1/products", limit, page.next_cursor))


@router.get(
    "/products/hot",
    tags=["products"],
    response_model=ProductPage,
    responses={**PUBLIC_PAGE, **problems(Invalid, Unavailable)},
)
async def list_hot_products(hot: HotProductsDep, limit: Limit = 20) -> Response:
    """What is read most, lately: the hottest first, one page and no more."""
    return _json(await hot.read_page(limit))


@router.get(
    "/products/{product_id}",
    tags=["products"],
    response_model=ProductRead,
    responses={**PUBLIC_PAGE, **problems(ProductNotFound, Invalid, Unavailable)},
)
async def read_product(product_id: ProductId, reader: ProductReaderDep) -> Response:
    """One product of the catalogue."""
    return _json(await reader.read(product_id))


@router.get("/admin/products", tags=["admin"], responses=problems(*REFUSED_TO_OTHERS))
async def list_all_products(
    admin: CurrentAdmin,
    response: Response,
    session: SessionDep,
    limit: Limit = 20,
    starting_after: StartingAfter = None,
) -> AdminProductPage:
    """Every product, published or not, newest first."""
    products, has_more = await repository.page(
        session, limit=limit, starting_after=starting_after, published_only=False
    )
    response.headers.update(_next_link("/v1/admin/products", limit, products[-1].id if has_more else None))
    return AdminProductPage(data=[AdminProductRead.model_validate(each) for each in products], has_more=has_more)


@router.post(
    "/admin/products", status_code=201, tags=["admin"], responses=problems(*REFUSED_TO_OTHERS, *REFUSED_BODIES)
)
async def create_product(
    new: ProductCreate, actor: ActorDep, response: Response, session: SessionDep, cache: CacheDep
) -> AdminProductRead:
    """Add a product to the catalogue."""
    product = await service.create(session, cache, actor, new)
    response.headers["Location"] = f"/v1/products/{product.id}"
    return AdminProductRead.model_validate(product)


@router.patch(
    "/admin/products/{product_id}",
    tags=["admin"],
    responses=problems(*REFUSED_TO_OTHERS, *REFUSED_BODIES, ProductNotFound),
)
async def change_product(
    product_id: ProductId, patch: ProductPatch, actor: ActorDep, session: SessionDep, cache: CacheDep
) -> AdminProductRead:
    """Change the fields that are sent. The stock is not among them."""
    return AdminProductRead.model_validate(await service.change(session, cache, actor, product_id, patch))


@router.post(
    "/admin/products/{product_id}/stock",
    tags=["admin"],
    response_model=AdminProductRead,
    responses={
        200: {"headers": headers("Idempotency-Replayed")},
        **problems(*REFUSED_TO_OTHERS, *REFUSED_BODIES, *KEY_PROBLEMS, ProductNotFound, NotEnoughStock, UnknownOutcome),
    },
)
async def move_stock(
    product_id: ProductId,
    change: StockChange,
    asked: AskedDep,
    actor: ActorDep,
    session: SessionDep,
    cache: CacheDep,
) -> Response:
    """Add units to the stock, or take some out with a negative `delta`; never below zero. A repeat moves nothing."""

    async def work() -> AdminProductRead:
        moved = await service.move_stock(session, cache, actor, product_id, change.delta)
        return AdminProductRead.model_validate(moved)

    return answer(await once(session, asked, work))


def _json(body: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(body, media_type="application/json", headers=headers)


def _next_link(path: str, limit: int, cursor: int | None) -> dict[str, str]:
    if cursor is None:
        return {}
    return next_link(path, f"limit={limit}&starting_after={cursor}")
