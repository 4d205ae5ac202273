"""A database that takes rows which the shop itself would never write: no constraint checks them any more."""

import asyncio
from collections.abc import Iterator

import pytest
import redis.asyncio as aioredis
from sqlalchemy import text
from structlog.testing import capture_logs
from structlog.typing import EventDict

from shop.database import Database
from shop.embedded import EmbeddedServers
from shop.orders.repository import has_unfinished
from shop.sales.controller import Controller
from shop.settings import Settings
from tests.conftest import settings_of
from tests.harness import PATIENCE, Shop
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
    settings = settings_of(servers, database="unchecked", redis_number=5, template=template_database)
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


@pytest.fixture
def bare_shop(database: Database, redis: aioredis.Redis, settings: Settings) -> Shop:
    """Servers without an API and without a worker."""
    return Shop(settings, database, redis, "")


@pytest.fixture
def controller(database: Database, redis: aioredis.Redis, settings: Settings) -> Controller:
    return Controller(database, redis, redis, settings, asyncio.Event(), unfinished=has_unfinished)


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[EventDict]]:
    """What is logged, which nobody has to read; to print a stack takes longer than the tests."""
    with capture_logs() as events:
        yield events
