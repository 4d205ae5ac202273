"""The rules of the catalogue: what the public reads through the cache, and what admins change."""

from dataclasses import dataclass
from functools import partial

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from shop.admin_events import record_admin_event
from shop.auth import Actor
from shop.cache import Cache
from shop.database import Database, after_commit
from shop.errors import Invalid, NotEnoughStock, ProductNotFound
from shop.products import repository
from shop.products.models import Product
from shop.products.schemas import STOCK_MAX, ProductCreate, ProductPage, ProductPatch, public_view

# One key for the first pages of every size, so that one invalidation drops them all.
FIRST_PAGES = "products"
PRODUCT_KEY = "product:"
# What a client that names no size gets, and the largest.
KEPT_SIZES = (20, 100)


@dataclass(frozen=True)
class PublicPage:
    """A page as JSON, and the cursor of the next one, if there is one."""

    body: bytes
    next_cursor: int | None


class _Row(msgspec.Struct):
    id: int


async def read_public_page(database: Database, cache: Cache, *, limit: int, starting_after: int | None) -> PublicPage:
    """One page of published products.

    Only the first page is cached, which is where a crowd is, in few sizes: every other one is cut from the next larger.
    A client can ask for as many other pages as there are numbers, so keeping them would let it fill Redis; and they
    cost Postgres no more than a range of its primary key.
    """
    size = min((kept for kept in KEPT_SIZES if kept >= limit), default=limit)
    if starting_after is None:
        load = partial(_load_page, database, size, None)
        body = await cache.get_or_load(FIRST_PAGES, load, part=str(size)) or await load()
    else:
        size, body = limit, await _load_page(database, limit, starting_after)
    page = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    rows = msgspec.json.decode(page["data"], type=list[msgspec.Raw])
    if len(rows) > limit:
        rows = rows[:limit]
        body = msgspec.json.encode({**page, "data": rows, "has_more": True})
    elif not msgspec.json.decode(page["has_more"], type=bool):
        return PublicPage(body, None)
    return PublicPage(body, msgspec.json.decode(rows[-1], type=_Row).id)


async def create(session: AsyncSession, cache: Cache, actor: Actor, new: ProductCreate) -> Product:
    """Add a product to the catalogue."""
    product = await repository.add(session, **new.model_dump())
    record_admin_event(
        session, actor, action="product.created", subject="product", subject_id=product.id, **new.model_dump()
    )
    forget_after_commit(session, cache, product.id)
    return product


async def change(session: AsyncSession, cache: Cache, actor: Actor, product_id: int, patch: ProductPatch) -> Product:
    """Change what the patch names, and nothing else. Raises ProductNotFound."""
    changes = patch.changes()
    if not changes:
        return await find(session, product_id)
    product = await repository.change(session, product_id, changes)
    if product is None:
        raise ProductNotFound
    record_admin_event(
        session, actor, action="product.changed", subject="product", subject_id=product_id, changes=changes
    )
    forget_after_commit(session, cache, product_id)
    return product


async def move_stock(session: AsyncSession, cache: Cache, actor: Actor, product_id: int, delta: int) -> Product:
    """Add units to the stock, or take some out. Raises ProductNotFound, NotEnoughStock, or Invalid above STOCK_MAX."""
    product = await repository.move_stock(session, product_id, delta, stock_max=STOCK_MAX)
    if product is None:
        await find(session, product_id)
        if delta > 0:
            raise Invalid(f"a product has at most {STOCK_MAX:,} units in stock", pointer="/delta")
        raise NotEnoughStock
    record_admin_event(
        session,
        actor,
        action="product.stock_moved",
        subject="product",
        subject_id=product_id,
        delta=delta,
        stock=product.stock,
    )
    forget_after_commit(session, cache, product_id)
    return product


async def find(session: AsyncSession, product_id: int) -> Product:
    """The product, published or not. Raises ProductNotFound."""
    product = await repository.find(session, product_id)
    if product is None:
        raise ProductNotFound
    return product


def forget_after_commit(session: AsyncSession, cache: Cache, product_id: int) -> None:
    """Invalidate what the public sees of this product once the transaction is committed.

    For everyone who changes a product or its stock; whoever leaves it out is right after `cache_ttl_seconds` at most.
    """
    after_commit(session, partial(cache.invalidate, key_of(product_id), FIRST_PAGES))


def product_of(key: str) -> int | None:
    """The product that a key of the cache is about; None for any other key, such as that of the first pages."""
    return int(key.removeprefix(PRODUCT_KEY)) if key.startswith(PRODUCT_KEY) else None


def key_of(product_id: int) -> str:
    """The product's key in the cache."""
    return f"{PRODUCT_KEY}{product_id}"


async def _load_page(database: Database, limit: int, starting_after: int | None) -> bytes:
    async with database.transaction() as session:
        products, has_more = await repository.page(
            session, limit=limit, starting_after=starting_after, published_only=True
        )
    page = ProductPage(data=[public_view(product) for product in products], has_more=has_more)
    return page.model_dump_json().encode()
