"""Every change of an order is announced after its commit, by the two who change orders: `life` and `batch`.

The database's sessions carry the announcer along, so that no caller has to remember it; a process that has none, such
as the command line, announces nothing, and whoever waits finds out by the next poll.
"""

from collections.abc import Sequence
from functools import partial
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from shop.database import after_commit
from shop.order_news import Announcer

ANNOUNCER = "announcer"  # the name in a session's info


def announce_after_commit(session: AsyncSession, order_ids: Sequence[UUID]) -> None:
    """Tell every process that these orders have changed, once they have."""
    announcer = session.info.get(ANNOUNCER)
    if order_ids and isinstance(announcer, Announcer):
        after_commit(session, partial(announcer.tell, order_ids))
