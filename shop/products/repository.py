"""Every query about products. Stock only ever moves by a difference, and the database decides whether it may."""

from typing import Any

from sqlalchemy import BigInteger, cast, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from shop.products.models import Product


async def find(session: AsyncSession, product_id: int) -> Product | None:
    """The product, published or not."""
    return await session.get(Product, product_id)


async def find_published(session: AsyncSession, product_id: int) -> Product | None:
    """The product, if the public may see it."""
    statement = select(Product).where(Product.id == product_id, Product.published)
    return (await session.scalars(statement)).one_or_none()


async def page(
    session: AsyncSession, *, limit: int, starting_after: int | None, published_only: bool
) -> tuple[list[Product], bool]:
    """At most `limit` products older than the cursor, newest first, and whether there are more."""
    statement = select(Product).order_by(Product.id.desc()).limit(limit + 1)
    if starting_after is not None:
        statement = statement.where(Product.id < starting_after)
    if published_only:
        statement = statement.where(Product.published)
    rows = list(await session.scalars(statement))
    return rows[:limit], len(rows) > limit


async def add(session: AsyncSession, **fields: Any) -> Product:
    """The new product, with its id."""
    product = Product(**fields)
    session.add(product)
    await session.flush()
    return product


async def change(session: AsyncSession, product_id: int, fields: dict[str, Any]) -> Product | None:
    """The product with these fields changed, or None when there is no such product."""
    statement = update(Product).where(Product.id == product_id).values(**fields).returning(Product)
    return (await session.scalars(statement, execution_options={"populate_existing": True})).one_or_none()


async def move_stock(session: AsyncSession, product_id: int, delta: int, *, stock_max: int) -> Product | None:
    """The product with its stock moved, or None when that would leave 0..`stock_max` or there is no such product."""
    moved = cast(Product.stock, BigInteger) + delta
    statement = (
        update(Product)
        .where(Product.id == product_id, moved.between(0, stock_max))
        .values(stock=Product.stock + delta)
        .returning(Product)
    )
    return (await session.scalars(statement, execution_options={"populate_existing": True})).one_or_none()


async def take_stock(session: AsyncSession, product_id: int, units: int) -> bool:
    """Whether the units were there; if so they are taken."""
    statement = (
        update(Product)
        .where(Product.id == product_id, Product.stock >= units)
        .values(stock=Product.stock - units)
        .returning(Product.id)
    )
    return (await session.execute(statement, execution_options={"synchronize_session": False})).first() is not None


async def give_stock(session: AsyncSession, product_id: int, units: int) -> None:
    """Put units back that were taken before."""
    statement = update(Product).where(Product.id == product_id).values(stock=Product.stock + units)
    await session.execute(statement, execution_options={"synchronize_session": False})
