"""A database that takes rows which the shop itself would never write: no constraint checks them any more."""

from collections.abc import Iterator

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs
from structlog.typing import EventDict

from shop.database import Database
from shop.embedded import EmbeddedServers
from shop.settings import Settings
from tests.conftest import settings_of
from tests.harness import PATIENCE
from tests.processes import copy_of

DROP_CHECKS = """
DO $$ DECLARE found record; BEGIN
  FOR found IN SELECT conrelid::regclass AS of_table, conname FROM pg_constraint
      WHERE contype = 'c' AND connamespace = 'public'::regnamespace LOOP
    EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', found.of_table, found.conname);
  END LOOP;
END $$
"""


@pytest.fixture(scope="session")
def unchecked_settings(servers: EmbeddedServers, template_database: str) -> Settings:
    """The settings of servers for poisoned items; a back-off that outlasts a test shows that it is one."""
    settings = settings_of(servers, database="unchecked", redis_number=2, template=template_database)
    return copy_of(settings, **PATIENCE, retry_delay_min_seconds=30.0, item_retry_seconds_max=30.0)


@pytest.fixture
def settings(unchecked_settings: Settings) -> Settings:
    """Those of the poisoned items, for `database` and `redis` as well."""
    return unchecked_settings


@pytest.fixture
async def database(database: Database) -> Database:
    """The clean database, which checks nothing."""
    async with database.transaction() as session:
        await session.execute(text(DROP_CHECKS))
    return database


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[EventDict]]:
    """What is logged, which nobody has to read; to print a stack takes longer than the tests."""
    with capture_logs() as events:
        yield events
