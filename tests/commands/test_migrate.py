"""`shop migrate`: the schema goes up without a question, and nobody drops a live shop's tables by a word too many."""

import asyncio
import itertools
from pathlib import Path

import pytest
from sqlalchemy import text

from shop.database import Database
from shop.local import environment_of
from shop.settings import Settings
from tests.harness import create_database, running_shop
from tests.nursery import Said, run
from tests.processes import copy_of

OLDER = "2026_11_24_create_payments"
HEAD = "head"

_numbers = itertools.count(1)


def migrate_to(settings: Settings, directory: Path, *words: str) -> Said:
    return run(directory, "migrate", *words, **environment_of(settings))


async def revision(settings: Settings) -> str | None:
    """The revision that the database is at; None when its tables are gone."""
    database = Database(settings, application_name="a-test")
    async with database.transaction() as session:
        found = (await session.execute(text("SELECT max(version_num) FROM alembic_version"))).scalar_one()
    await database.close()
    return found if found is None else str(found)


async def test_a_live_shop_is_not_taken_down_unless_it_is_said_so(fresh_settings: Settings, tmp_path: Path) -> None:
    """Neither by `base` nor by an older revision; `--yes` says that the data may go, not that the shop may break."""
    before = await revision(fresh_settings)
    async with running_shop(fresh_settings, worker=False):
        for to in ("base", OLDER, "-1"):
            said = await asyncio.to_thread(migrate_to, fresh_settings, tmp_path, "--to", to, "--yes")
            assert said.status == 1
            assert "the shop is running: shop-api" in said.errors
            assert said.errors.count("\n") == 1
        assert await revision(fresh_settings) == before

        said = await asyncio.to_thread(migrate_to, fresh_settings, tmp_path, "--to", OLDER, "--yes", "--while-running")
        assert (said.status, await revision(fresh_settings)) == (0, OLDER)


async def test_a_process_with_a_recent_heartbeat_counts_as_running(fresh_settings: Settings, tmp_path: Path) -> None:
    """Its connections may be a pooler's."""
    database = Database(fresh_settings, application_name="a-test")
    async with database.transaction() as session:
        await session.execute(text("INSERT INTO api_processes (id) VALUES (gen_random_uuid())"))
    await database.close()

    said = await asyncio.to_thread(migrate_to, fresh_settings, tmp_path, "--to", "base", "--yes")

    assert (said.status, "with a heartbeat" in said.errors) == (1, True)


async def test_going_down_is_asked_for_twice_and_going_up_is_not(fresh_settings: Settings, tmp_path: Path) -> None:
    head = await revision(fresh_settings)
    asked = await asyncio.to_thread(migrate_to, fresh_settings, tmp_path, "--to", OLDER)
    assert (asked.status, await revision(fresh_settings)) == (1, head)
    assert f"from {head} down to {OLDER}" in asked.errors
    assert "--yes" in asked.errors

    for words, found in (
        (("--to", OLDER, "--yes"), OLDER),
        (("--to", "+1"), "2026_11_25_create_idempotency"),
        (("--to", "-1", "--yes"), OLDER),
        (("--to", "base", "--yes"), None),
        (("--to", OLDER), OLDER),
        ((), head),
    ):
        said = await asyncio.to_thread(migrate_to, fresh_settings, tmp_path, *words)
        assert (said.status, await revision(fresh_settings)) == (0, found), said


@pytest.mark.parametrize("to", ["2026_11_99", "heads", "2026_11", "-99", "+99", "", "1e9", "ä"])
def test_a_revision_that_is_not_there_is_one_line(clean_settings: Settings, tmp_path: Path, to: str) -> None:
    said = migrate_to(clean_settings, tmp_path, f"--to={to}", "--yes")

    assert (said.status, said.output) == (2, "")
    assert said.errors.startswith("error: ")
    assert said.errors.count("\n") == 1


def test_a_database_of_a_newer_release_is_named(clean_settings: Settings, tmp_path: Path) -> None:
    url = create_database(clean_settings.database_url, f"newer_{next(_numbers)}")
    newer = copy_of(clean_settings, database_url=url)

    async def write() -> None:
        database = Database(newer, application_name="a-test")
        async with database.transaction() as session:
            await session.execute(text("CREATE TABLE alembic_version (version_num varchar(32))"))
            await session.execute(text("INSERT INTO alembic_version VALUES ('2099_01_01_of_later')"))
        await database.close()

    asyncio.run(write())
    said = migrate_to(newer, tmp_path)

    assert said.status == 2
    assert "2099_01_01_of_later" in said.errors
    assert said.errors.count("\n") == 1
