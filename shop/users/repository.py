"""Every query about accounts."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from sqlalchemy import Numeric, String, cast, column, extract, func, literal, select, update
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncSession

from shop.users.models import Role, User

# How many, the newest, and the sum of their times: any change of the set changes one of them.
Fingerprint = tuple[int, datetime | None, Decimal | None]


async def find(session: AsyncSession, user_id: str) -> User | None:
    """The account with this id."""
    return await session.get(User, user_id)


async def find_by_email(session: AsyncSession, email: str) -> User | None:
    """The account with this address in its canonical form."""
    return (await session.scalars(select(User).where(User.email == email))).one_or_none()


async def add(session: AsyncSession, *, user_id: str, email: str, password_hash: str, role: Role) -> User | None:
    """The new account, or None when the address is taken."""
    statement = (
        insert(User)
        .values(id=user_id, email=email, password_hash=password_hash, role=role, tx=func.pg_current_xact_id())
        .on_conflict_do_nothing(index_elements=[User.email])
        .returning(User)
    )
    return (await session.scalars(statement)).one_or_none()


async def add_shoppers(session: AsyncSession, ids: Sequence[str], *, email_domain: str, password_hash: str) -> None:
    """One row an id, all in one statement."""
    shopper = func.unnest(literal(list(ids), ARRAY(String))).table_valued(column("id", String)).render_derived()
    rows = select(
        shopper.c.id,
        literal("shopper-") + shopper.c.id + literal(f"@{email_domain}"),
        literal(password_hash),
        literal(Role.SHOPPER.value),
    )
    await session.execute(insert(User).from_select(["id", "email", "password_hash", "role"], rows))


async def block(session: AsyncSession, user_id: str) -> bool:
    """Whether this changed anything."""
    statement = update(User).where(User.id == user_id, User.blocked_at.is_(None)).values(blocked_at=func.now())
    return (await session.execute(statement.returning(User.id))).first() is not None


async def unblock(session: AsyncSession, user_id: str) -> bool:
    """Whether this changed anything."""
    statement = update(User).where(User.id == user_id, User.blocked_at.is_not(None)).values(blocked_at=None)
    return (await session.execute(statement.returning(User.id))).first() is not None


async def blocked_ids(session: AsyncSession) -> frozenset[str]:
    """Every blocked account."""
    return frozenset(await session.scalars(select(User.id).where(User.blocked_at.is_not(None))))


async def blocked_fingerprint(session: AsyncSession) -> Fingerprint:
    """What changes whenever the set of blocked accounts does; read from its small index alone."""
    times = func.sum(cast(extract("epoch", User.blocked_at), Numeric))
    statement = select(func.count(), func.max(User.blocked_at), times).where(User.blocked_at.is_not(None))
    count, newest, total = (await session.execute(statement)).one()
    return count, newest, total
