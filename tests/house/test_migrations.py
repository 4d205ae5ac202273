"""The schema goes up, agrees with the models, and goes down; one migration at a time in the world."""

import asyncio
import itertools
import os
import subprocess
import sys

import asyncpg
import pytest

from shop.database import Base, Database, check_migrations, migrate, migrated
from shop.embedded import EmbeddedServers
from shop.local import environment_of
from shop.settings import Settings
from tests.harness import create_database

MIGRATING = """
from shop.database import migrate
from shop.settings import get_settings
migrate(get_settings())
"""

_numbers = itertools.count(1)


@pytest.fixture
def empty_settings(servers: EmbeddedServers, clean_settings: Settings) -> Settings:
    """The settings of a database of the test's own with nothing in it."""
    url = create_database(servers.database_url, f"empty_{next(_numbers)}")
    return clean_settings.model_copy(update={"database_url": url})


def names(settings: Settings) -> set[str]:
    """The tables, indexes and sequences that are there."""

    async def read() -> set[str]:
        connection = await asyncpg.connect(settings.database_url.replace("+asyncpg", ""))
        rows = await connection.fetch("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")
        await connection.close()
        return {row["relname"] for row in rows}

    return asyncio.run(read())


def is_migrated(settings: Settings) -> bool:
    """What the readiness check would say."""

    async def read() -> bool:
        database = Database(settings, application_name="shop-tests")
        async with database.transaction() as session:
            found = await migrated(session)
        await database.close()
        return found

    return asyncio.run(read())


def test_the_schema_goes_up_agrees_with_the_models_goes_down_and_up_again(empty_settings: Settings) -> None:
    assert not is_migrated(empty_settings)
    migrate(empty_settings)
    migrate(empty_settings)
    check_migrations(empty_settings)
    assert is_migrated(empty_settings)
    made = names(empty_settings)
    assert made >= {*Base.metadata.tables, "ix_orders_due", "ix_orders_owed", "ix_sales_alive"}

    migrate(empty_settings, "base")
    assert names(empty_settings) == {"alembic_version", "alembic_version_pkc"}
    assert not is_migrated(empty_settings)

    migrate(empty_settings)
    check_migrations(empty_settings)
    assert names(empty_settings) == made


def test_two_that_migrate_at_once_do_not_disturb_each_other(empty_settings: Settings) -> None:
    """Every replica may try at its start: the advisory lock lets one work and the others find it done."""
    environment = {**os.environ, **environment_of(empty_settings)}
    command = [sys.executable, "-c", MIGRATING]

    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(2)
    ]
    said = [process.communicate(timeout=60)[0].decode() for process in running]

    assert [process.returncode for process in running] == [0, 0], said
    assert is_migrated(empty_settings)
