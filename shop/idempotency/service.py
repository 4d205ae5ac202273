"""Do a thing once for each key, and tell everybody who asks with the key what came of it.

The key is recorded in the transaction of the effect. So a request that was refused leaves nothing behind and may be
tried again, and one whose answer was lost is found whatever happened to the process after the commit.
"""

import hashlib
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from shop.database import Database
from shop.errors import IdempotencyMismatch, Unavailable
from shop.idempotency import repository
from shop.settings import Settings


@dataclass(frozen=True)
class Asked:
    """Who asks, under which key, for what."""

    user_id: str
    key: str
    fingerprint: bytes


@dataclass(frozen=True)
class Answer:
    """What was answered when the key was used, and whether that was by an earlier request."""

    status: int
    body: str
    replayed: bool


def fingerprint(method: str, path: str, body: bytes) -> bytes:
    """What a request asks for, in 32 bytes. The order of the members of its JSON makes no difference, nor do spaces."""
    with suppress(ValueError, RecursionError):  # what is not JSON means itself
        body = json.dumps(json.loads(body), sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.sha256()
    for part in (method.encode(), path.encode(), body):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


async def once(
    session: AsyncSession, asked: Asked, work: Callable[[], Awaitable[BaseModel]], *, status: int = 200
) -> Answer:
    """Do the work in this transaction and keep what it returns under the key; or what an earlier request returned.

    A request that comes while the first one is at work waits for it. Call this before the transaction locks anything
    else, so that nobody waits in a circle. What is true of the work only after the commit is not in the kept answer: a
    caller that has more to do then, does it for a replay as well. Raises IdempotencyMismatch, and whatever the work
    raises: then the key is free again.
    """
    if await repository.claim(session, asked.user_id, asked.key, asked.fingerprint):
        body = (await work()).model_dump_json()
        await repository.keep_answer(session, asked.user_id, asked.key, status=status, body=body)
        return Answer(status, body, replayed=False)
    kept = await repository.find(session, asked.user_id, asked.key)
    if kept is None or kept.status is None or kept.body is None:
        raise Unavailable("The key was forgotten at this moment; try again")
    if kept.fingerprint != asked.fingerprint:
        raise IdempotencyMismatch("This key was used before for another request")
    return Answer(kept.status, kept.body, replayed=True)


async def forget_old(database: Database, settings: Settings) -> int:
    """Delete keys that are older than they must be kept, in bounded batches; returns how many."""
    forgotten = 0
    for _ in range(settings.idempotency_forget_batches_max):
        async with database.transaction() as session:
            deleted = await repository.forget(
                session,
                older_than=timedelta(hours=settings.idempotency_keep_hours),
                limit=settings.idempotency_forget_batch_max,
            )
        forgotten += deleted
        if deleted < settings.idempotency_forget_batch_max:
            break
    return forgotten
