"""The query of the list of what admins did: each filter has an index that has its rows in their order."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from shop.admin_events import AdminEvent
from shop.admin_events.schemas import AdminEventQuery
from shop.paging import is_among, newest, newest_first, position_after


async def page(session: AsyncSession, asked: AdminEventQuery) -> Sequence[AdminEvent]:
    """The events of a page, the newest first, and one more if there are more. Raises Invalid for an unknown cursor."""
    at = None
    if asked.starting_after is not None:
        at = await session.scalar(select(AdminEvent.created_at).where(AdminEvent.id == asked.starting_after))
    equal = {
        AdminEvent.action: asked.action,
        AdminEvent.actor_id: asked.actor_id,
        AdminEvent.subject: asked.subject,
        AdminEvent.subject_id: asked.subject_id,
    }
    where = [column == value for column, value in equal.items() if value is not None]
    events = select(AdminEvent.created_at, AdminEvent.id).where(*where)
    found = newest([events], asked, position_after(asked.starting_after, at))
    query = select(AdminEvent).join(found, is_among(AdminEvent.id, found)).order_by(*newest_first(found))
    return (await session.scalars(query)).all()
