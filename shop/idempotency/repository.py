"""Every query about keys that were used."""

from datetime import timedelta

from sqlalchemy import delete, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from shop.idempotency.models import IdempotencyKey


async def claim(session: AsyncSession, user_id: str, key: str, fingerprint: bytes) -> bool:
    """Whether this transaction is the one that uses the key; it waits for another that is about to."""
    statement = (
        insert(IdempotencyKey)
        .values(user_id=user_id, key=key, fingerprint=fingerprint)
        .on_conflict_do_nothing()
        .returning(IdempotencyKey.key)
    )
    return (await session.execute(statement)).first() is not None


async def find(session: AsyncSession, user_id: str, key: str) -> IdempotencyKey | None:
    """What was asked under this key before, and answered."""
    return await session.get(IdempotencyKey, (user_id, key))


async def keep_answer(session: AsyncSession, user_id: str, key: str, *, status: int, body: str) -> None:
    """Note what the claimed key is answered."""
    statement = (
        update(IdempotencyKey)
        .where(IdempotencyKey.user_id == user_id, IdempotencyKey.key == key)
        .values(status=status, body=body)
    )
    await session.execute(statement, execution_options={"synchronize_session": False})


async def forget(session: AsyncSession, *, older_than: timedelta, limit: int) -> int:
    """Delete up to `limit` keys that were used so long ago, by Postgres time, the oldest first; returns how many."""
    row = (IdempotencyKey.user_id, IdempotencyKey.key)
    old = (
        select(*row)
        .where(IdempotencyKey.created_at < func.now() - older_than)
        .order_by(IdempotencyKey.created_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    statement = delete(IdempotencyKey).where(tuple_(*row).in_(old)).returning(IdempotencyKey.key)
    return len((await session.execute(statement, execution_options={"synchronize_session": False})).all())
