"""The transaction of a request, for the routers; whoever else uses the database needs no web framework for it."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from shop.database import Database


async def _session(request: Request) -> AsyncIterator[AsyncSession]:
    database: Database = request.app.state.database
    async with database.transaction() as session:
        yield session


# scope="function": the commit comes before the answer leaves, so nobody is told of a thing that is not there.
SessionDep = Annotated[AsyncSession, Depends(_session, scope="function")]
