"""The schema goes up, agrees with the models, and goes down; one migration at a time in the world."""

import asyncio
import itertools
import os
import subprocess
import sys

import asyncpg
import pytest

from shop.database import Base, Database
from shop.embedded import EmbeddedServers
from shop.local import environment_of
from shop.migrating import check_migrations, migrate, migrated
from shop.settings import Settings
from tests.harness import create_database

MIGRATING = """
from shop.migrating import migrate
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


def test_times_that_nobody_could_read_become_the_nearest_that_can(empty_settings: Settings) -> None:
    """Of sales that an earlier release has let in; their changes and the other sales stay what they are."""
    migrate(empty_settings, "2026_11_26_index_stock_ledger")
    rows = [("2030-01-01", "infinity"), ("-infinity", "2030-01-01"), ("2030-01-01", "2031-01-01")]

    async def write() -> None:
        connection = await asyncpg.connect(empty_settings.database_url.replace("+asyncpg", ""))
        await connection.execute(
            "INSERT INTO products (name, description, price_minor, currency, stock, published)"
            " VALUES ('Phone', '', 1, 'EUR', 0, true)"
        )
        for starts_at, ends_at in rows:
            await connection.execute(
                "INSERT INTO sales (product_id, name, units, units_taken, price_minor, currency, units_per_user,"  # noqa: S608
                " orders_per_user, hold_seconds, starts_at, ends_at, status, paused, salt, epoch, watermark,"
                " watermark_balance, changes, held_back) VALUES (1, 'Sale', 1, 0, 1, 'EUR', 1, 1, 1,"
                f" '{starts_at}', '{ends_at}', 'draft', false, '', 0, 0, 0, 0, 0)"
            )
        await connection.close()

    async def years() -> list[tuple[int, int]]:
        connection = await asyncpg.connect(empty_settings.database_url.replace("+asyncpg", ""))
        found = await connection.fetch("SELECT starts_at, ends_at FROM sales ORDER BY id")
        await connection.close()
        return [(row["starts_at"].year, row["ends_at"].year) for row in found]

    asyncio.run(write())
    migrate(empty_settings)

    assert asyncio.run(years()) == [(2030, 9000), (2000, 2030), (2030, 2031)]


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
