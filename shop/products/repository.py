"""Every query about products. Stock only ever moves by a difference, and the database decides whether it may."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ARRAY, BigInteger, ColumnElement, Integer, Select, any_, column, literal, select, update, values
from sqlalchemy.ext.asyncio import AsyncSession

from shop.products.models import Product


async def find(session: AsyncSession, product_id: int) -> Product | None:
    """The product, published or not."""
    return await session.get(Product, product_id)


async def find_each_published(session: AsyncSession, product_ids: Collection[int]) -> Sequence[Product]:
    """Those of these products that the public may see."""
    return (await session.scalars(select(Product).where(_is_one_of(product_ids), Product.published))).all()


async def published_ids(session: AsyncSession, product_ids: Collection[int]) -> set[int]:
    """The ids of those of these products that the public may see."""
    return set(await session.scalars(select(Product.id).where(_is_one_of(product_ids), Product.published)))


def _is_one_of(product_ids: Collection[int]) -> ColumnElement[bool]:
    """One statement for any number of ids, which Postgres plans once."""
    return Product.id == any_(literal(list(product_ids), ARRAY(BigInteger)))


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
    """The product with its stock moved; None when there is no such product, or it would go below 0 or up above the top.

    It may stand above `stock_max` by what sales have given back.
    """
    moved = Product.stock + delta
    allowed = moved >= 0 if delta < 0 else moved <= stock_max
    statement = update(Product).where(Product.id == product_id, allowed).values(stock=moved).returning(Product)
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


async def lock(session: AsyncSession, product_ids: Collection[int]) -> Sequence[Product]:
    """Those of these products that exist, locked in the order of their ids, so that nobody waits in a circle.

    The lock is the one of an update that leaves the key alone: whoever writes an order line does not wait for it.
    """
    statement = select(Product).where(Product.id.in_(product_ids)).order_by(Product.id).with_for_update(key_share=True)
    return (await session.scalars(statement, execution_options={"populate_existing": True})).all()


async def take_from_each(session: AsyncSession, units: Mapping[int, int]) -> set[int]:
    """Take these units of these products, which are locked; returns the products that had them."""
    asked = values(column("product_id", BigInteger), column("units", Integer), name="asked").data(list(units.items()))
    statement = (
        update(Product)
        .where(Product.id == asked.c.product_id, Product.stock >= asked.c.units)
        .values(stock=Product.stock - asked.c.units)
        .returning(Product.id)
    )
    return set(await session.scalars(statement, execution_options={"synchronize_session": False}))


async def give_to_each(session: AsyncSession, units: Select[int, int]) -> None:
    """Put back what a query of (product_id, units), one row a product, says; it locks as `lock` does."""
    given = units.subquery("given")
    locked = select(Product.id).where(Product.id.in_(select(given.c.product_id))).order_by(Product.id)
    await session.execute(locked.with_for_update(key_share=True))
    statement = update(Product).where(Product.id == given.c.product_id).values(stock=Product.stock + given.c.units)
    await session.execute(statement, execution_options={"synchronize_session": False})
