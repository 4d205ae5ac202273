"""Every query about accounts."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Numeric,
    Select,
    String,
    cast,
    column,
    extract,
    func,
    literal,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncSession

from shop.database import Xid8
from shop.users.models import Role, User

MILLISECONDS_PER_SECOND = 1_000

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


async def lock_admins(session: AsyncSession) -> Sequence[str]:
    """The admins who are not blocked, locked until the transaction ends: of two who go at once, the second sees it."""
    admins = (User.role == Role.ADMIN, User.blocked_at.is_(None))
    statement = select(User.id).where(*admins).order_by(User.id).with_for_update()
    return (await session.scalars(statement)).all()


async def replace_hash(session: AsyncSession, user_id: str, *, before: str, after: str) -> None:
    """Keep another hash of the same password, unless the password was changed meanwhile."""
    statement = update(User).where(User.id == user_id, User.password_hash == before).values(password_hash=after)
    await session.execute(statement)


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


async def blocked_fingerprint(session: AsyncSession) -> tuple[Fingerprint, int]:
    """What changes whenever the set of blocked accounts does, read from its small index alone; and a horizon: every
    transaction below it has ended.
    """
    times = func.sum(cast(extract("epoch", User.blocked_at), Numeric))
    horizon = func.pg_snapshot_xmin(func.pg_current_snapshot(), type_=Xid8)
    statement = select(func.count(), func.max(User.blocked_at), times, horizon).where(User.blocked_at.is_not(None))
    count, newest, total, horizon_now = (await session.execute(statement)).one()
    return (count, newest, total), horizon_now


async def begin_generation(
    session: AsyncSession, user_id: str, *where: ColumnElement[bool], **fields: str
) -> User | None:
    """Let the user's tokens so far be good no more, and change these fields with it; None if no such row is there.

    The clock may have been set back: a generation is never less than the one before.
    """
    now = func.floor(extract("epoch", func.clock_timestamp()) * MILLISECONDS_PER_SECOND)
    statement = (
        update(User)
        .where(User.id == user_id, *where)
        .values(
            token_generation=func.greatest(User.token_generation + 1, cast(now, BigInteger)),
            tokens_ended_tx=func.pg_current_xact_id(),
            **fields,
        )
        .returning(User)
    )
    return (await session.scalars(statement, execution_options={"populate_existing": True})).one_or_none()


async def generations(session: AsyncSession, *, begun_within_seconds: float) -> dict[str, int]:
    """The generations that began in this time, by user."""
    now = extract("epoch", func.now()) * MILLISECONDS_PER_SECOND
    since = cast(now, BigInteger) - int(begun_within_seconds * MILLISECONDS_PER_SECOND)
    statement = select(User.id, User.token_generation).where(User.token_generation > 0, User.token_generation > since)
    return await _generation_of_each(session, statement)


async def generations_from(session: AsyncSession, horizon: int) -> dict[str, int]:
    """The generations that transactions from this one on have begun, by user."""
    statement = select(User.id, User.token_generation).where(User.tokens_ended_tx >= horizon)
    return await _generation_of_each(session, statement)


async def _generation_of_each(session: AsyncSession, statement: Select[str, int]) -> dict[str, int]:
    return {user_id: generation for user_id, generation in await session.execute(statement)}  # noqa: C416 - rows are not pairs to dict()
