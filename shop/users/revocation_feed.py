"""How each process learns what was taken back of tokens: it asks Postgres, so no message can be lost."""

import asyncio
import time
from dataclasses import dataclass

import structlog

from shop.auth import Revocations
from shop.database import Database
from shop.settings import TOKEN_LIFETIME_SECONDS_MAX, Settings
from shop.stopping import sleep_or_stop
from shop.users import repository
from shop.users.repository import Fingerprint

# Everything is read anew so often, whatever seems to have changed: the promoted server of a failover may have forgotten
# transactions whose numbers it gives again, and what began longer ago than any token lives need not be remembered.
REREAD_SECONDS = 60.0
# The setting may have been longer when the token was issued, and the clock that issued it ahead of the one of Postgres.
REMEMBERED_SECONDS = TOKEN_LIFETIME_SECONDS_MAX + 3_600

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Seen:
    """What the last poll has read: the set of blocked accounts, and every transaction below `horizon`."""

    blocked: Fingerprint
    horizon: int
    whole_at: float


async def follow_revocations(
    database: Database,
    revocations: Revocations,
    settings: Settings,
    *,
    read: asyncio.Event,
    stopping: asyncio.Event,
) -> None:
    """Keep `revocations` equal to what Postgres says, until `stopping` is set; `read` tells the first time.

    While Postgres cannot be read, what was known last counts.
    """
    seen: _Seen | None = None
    failing = False
    while not stopping.is_set():
        try:
            seen = await _read(database, revocations, seen)
            failing = False
            read.set()
        except Exception as error:  # noqa: BLE001 - if this loop ended, a later block would never take effect
            seen = None  # It may be another server that answers next.
            if not failing:
                _log.warning("revocations_not_read", error=repr(error))
            failing = True
        await sleep_or_stop(stopping, settings.blocked_poll_seconds)


async def _read(database: Database, revocations: Revocations, seen: _Seen | None) -> _Seen:
    now = time.monotonic()
    async with database.transaction() as session:
        # Before the rest: what changes between two of these reads is then seen by the next poll.
        blocked, horizon = await repository.blocked_fingerprint(session)
        if seen is not None and _goes_on(seen, blocked, horizon) and now - seen.whole_at < REREAD_SECONDS:
            revocations.begin(await repository.generations_from(session, seen.horizon))
            return _Seen(blocked, horizon, seen.whole_at)
        generations = await repository.generations(session, begun_within_seconds=REMEMBERED_SECONDS)
        revocations.replace(await repository.blocked_ids(session), generations)
    return _Seen(blocked, horizon, now)


def _goes_on(seen: _Seen, blocked: Fingerprint, horizon: int) -> bool:
    """Whether only generations can have changed since; a horizon that goes back is that of another server."""
    return seen.blocked == blocked and seen.horizon <= horizon
