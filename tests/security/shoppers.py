"""Accounts of shoppers, and what admins have done to them."""

from sqlalchemy import select

from shop.admin_events import AdminEvent
from shop.database import Database
from shop.users import service


async def make_shopper(database: Database) -> str:
    async with database.transaction() as session:
        [user_id] = await service.make_shoppers(session, 1)
    return user_id


async def actions(database: Database, user_id: str) -> list[str]:
    async with database.transaction() as session:
        statement = select(AdminEvent.action).where(AdminEvent.subject_id == user_id).order_by(AdminEvent.id)
        return list(await session.scalars(statement))
