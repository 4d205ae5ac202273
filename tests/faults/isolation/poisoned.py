"""Rows that hold what the shop itself would never write."""

from sqlalchemy import text

from shop.database import Database
from shop.sales.models import Sale
from tests.harness import Shop


async def poison(bare_shop: Shop, sale: Sale, values: str) -> None:
    async with bare_shop.database.transaction() as session:
        await session.execute(text(f"UPDATE sales SET {values} WHERE id = :id"), {"id": sale.id})  # noqa: S608


async def unreadable(database: Database, table: str, column: str, **key: object) -> None:
    """Let a row hold a time that no Python knows."""
    [(name, value)] = key.items()
    async with database.transaction() as session:
        statement = text(f"UPDATE {table} SET {column} = '20000-01-01' WHERE {name} = :value")  # noqa: S608
        await session.execute(statement, {"value": value})
