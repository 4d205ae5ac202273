"""What routers work with: the transaction of the request, the database and the ledger.

Whoever else uses these needs no web framework for it.
"""

from collections.abc import AsyncIterator
from typing import Annotated

import redis.asyncio as aioredis
from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from shop.app_keys import AppKey
from shop.database import Database

DATABASE = AppKey[Database]("database")
LEDGER = AppKey[aioredis.Redis]("ledger")


async def _session(request: Request) -> AsyncIterator[AsyncSession]:
    async with DATABASE.of(request).transaction() as session:
        yield session


# scope="function": the commit comes before the answer leaves, so nobody is told of a thing that is not there.
SessionDep = Annotated[AsyncSession, Depends(_session, scope="function")]
