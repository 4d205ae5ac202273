"""A database with many rows of everything that admins list."""

from collections.abc import AsyncIterator

import pytest

from shop.database import Database
from shop.embedded import EmbeddedServers
from tests.api.listing.rows import fill, vacuum
from tests.conftest import settings_of

ROWS = 20_000


@pytest.fixture(scope="session")
async def many(servers: EmbeddedServers, template_database: str) -> AsyncIterator[Database]:
    """The database, which no test changes."""
    settings = settings_of(servers, database="many", redis_number=0, template=template_database)
    database = Database(settings, application_name="shop-tests", statement_seconds=60)
    async with database.transaction() as session:
        await fill(session, ROWS)
    await vacuum(database)
    yield database
    await database.close()
