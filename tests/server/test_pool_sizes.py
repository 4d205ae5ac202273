"""The pools of all processes are compared with what Postgres takes; a sum that does not fit is said at the start."""

import pytest
from sqlalchemy import text

from shop.database import Database
from shop.pool_sizes import connections_available, connections_wanted, shortage
from shop.settings import Settings
from tests.processes import copy_of


async def test_the_connections_of_a_user_are_those_that_postgres_keeps_for_nobody_else(database: Database) -> None:
    async with database.transaction() as session:
        available = await connections_available(session)
        reserved = "max_connections", "superuser_reserved_connections", "reserved_connections"
        most, *kept = [int(str(await session.scalar(text(f"SHOW {name}")))) for name in reserved]

    assert available == most - sum(kept)


@pytest.mark.parametrize("of", ["ROLE CURRENT_USER", "DATABASE {name}"])
async def test_a_limit_of_the_user_or_of_the_database_counts(database: Database, of: str) -> None:
    async with database.transaction() as session:
        name = await session.scalar(text("SELECT current_database()"))
        await session.execute(text(f"ALTER {of.format(name=name)} CONNECTION LIMIT 40"))
        available = await connections_available(session)
        await session.rollback()

    assert available == 40


def test_the_sum_counts_every_process_and_names_what_to_do(settings: Settings) -> None:
    """Three processes in each of two containers, beside a worker."""
    asked = copy_of(
        settings, api_instances=2, api_processes=3, database_pool_max=10, worker_pool_max=20, worker_instances=1
    )

    wanted = connections_wanted(asked)

    assert wanted == 2 * 3 * (10 + 4) + 2 * 20 + 2
    assert connections_wanted(asked, api_processes=1) == 2 * (10 + 4) + 2 * 20 + 2
    assert shortage(wanted, 200) is None
    said = shortage(wanted, 97) or ""
    assert (str(wanted) in said, "97" in said, "SHOP_DATABASE_POOL_MAX" in said) == (True, True, True)
