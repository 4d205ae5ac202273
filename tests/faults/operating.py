"""What an operator does in Postgres itself, and how long a shop may take to heal afterwards."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from shop.settings import Settings

HEALED_SECONDS = 30.0


@asynccontextmanager
async def operator(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection of the server's own user to the shop's database."""
    connection = await asyncpg.connect(settings.database_url.replace("+asyncpg", ""))
    try:
        yield connection
    finally:
        await connection.close()
