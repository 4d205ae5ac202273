"""All accounts, for admins over HTTP and for the command line alike."""

from sqlalchemy.ext.asyncio import AsyncSession

from shop.paging import cut
from shop.users.listing import repository
from shop.users.listing.schemas import UserAdminPage, UserQuery
from shop.users.schemas import UserAdminRead


async def list_users(session: AsyncSession, asked: UserQuery) -> UserAdminPage:
    """A page of all accounts. Raises Invalid for an unknown cursor."""
    found, has_more = cut(await repository.page(session, asked), asked.limit)
    return UserAdminPage(data=[UserAdminRead.model_validate(user) for user in found], has_more=has_more)
