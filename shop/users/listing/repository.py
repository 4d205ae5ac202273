"""Every query of the list of all accounts: for each set of filters there is an index that has its rows in order."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Select, collate, select, union_all
from sqlalchemy.ext.asyncio import AsyncSession

from shop.paging import is_among, newest, newest_first, position_after
from shop.users.listing.schemas import UserQuery
from shop.users.models import Role, User

BLOCKED, FREE = User.blocked_at.is_not(None), User.blocked_at.is_(None)
# In the order of code points, so that addresses with the same beginning stand together.
address = collate(User.email, "C")
LAST_CHARACTER = chr(0x10FFFF)


async def page(session: AsyncSession, asked: UserQuery) -> Sequence[User]:
    """The accounts of a page in their order, and one more if there are more. Raises Invalid for an unknown cursor."""
    last = None if asked.starting_after is None else await session.get(User, asked.starting_after)
    after = position_after(asked.starting_after, None if last is None else last.created_at)
    if asked.email_prefix is not None:
        return (await session.scalars(_by_address(asked, asked.email_prefix, last))).all()
    found = newest([select(User.created_at, User.id).where(*which) for which in _each_kind(asked)], asked, after)
    query = select(User).join(found, is_among(User.id, found)).order_by(*newest_first(found))
    return (await session.scalars(query)).all()


def _each_kind(asked: UserQuery) -> list[list[ColumnElement[bool]]]:
    """What is asked of an account, for each kind of account that has an index."""
    roles = [asked.role] if asked.role else list(Role)
    states: tuple[ColumnElement[bool], ...] = {None: (BLOCKED, FREE), True: (BLOCKED,), False: (FREE,)}[asked.blocked]
    more = [] if asked.email is None else [User.email == asked.email]
    return [[User.role == role, state, *more] for role in roles for state in states]


def _by_address(asked: UserQuery, prefix: str, last: User | None) -> Select[User]:
    """The accounts whose addresses begin so, in the order of the addresses."""
    begins = [address >= prefix, address < prefix + LAST_CHARACTER]
    if asked.created_from is not None:
        begins.append(User.created_at >= asked.created_from)
    if asked.created_before is not None:
        begins.append(User.created_at < asked.created_before)
    if last is not None:
        begins.append(address > last.email)
    kinds = [[]] if asked.role is None and asked.blocked is None else _each_kind(asked)
    some = [
        select(address.label("address"), User.id).where(*begins, *which).order_by(address).limit(asked.limit + 1)
        for which in kinds
    ]
    found = union_all(*some).subquery()
    query = select(User).join(found, found.c.id == User.id)
    return query.order_by(found.c.address).limit(asked.limit + 1)
