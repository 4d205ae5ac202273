"""What an error of a statement tells the log: which rule was broken, and never a value of the statement or of a row."""

import traceback
from typing import Any

import pytest
from sqlalchemy import BigInteger, Executable, bindparam, insert, text
from sqlalchemy.exc import DBAPIError

from shop.database import Database, copy_rows
from shop.settings import Settings
from shop.users.models import User

SECRET = "a-value\nthat-nobody-may-read@example.com"
NUMBER = 987_654_321_987_654_321_987
ROW: dict[str, Any] = {"id": "0123456789ab", "email": SECRET, "password_hash": SECRET, "role": "shopper"}

STATEMENTS: dict[str, list[Executable]] = {
    "a row that is there already": [insert(User).values(ROW), insert(User).values(ROW)],
    "a row that breaks a rule": [insert(User).values({**ROW, "role": SECRET[:10]})],
    "an argument of the wrong type": [text("SELECT :value + 1").bindparams(bindparam("value", NUMBER, BigInteger()))],
    "a text that is no number": [text("SELECT CAST(CAST(:value AS text) AS integer)").bindparams(value=SECRET)],
    "a statement that is wrong": [text("SELECT :value FROM no_such_table").bindparams(value=SECRET)],
}


def told(error: BaseException) -> str:
    """All that a log could write of an error."""
    return "".join(traceback.format_exception(error)) + repr(error)


@pytest.mark.parametrize("name", STATEMENTS)
async def test_an_error_of_a_statement_names_no_value(database: Database, name: str) -> None:
    *before, last = STATEMENTS[name]
    async with database.transaction() as session:
        for statement in before:
            await session.execute(statement)
        with pytest.raises(DBAPIError) as failed:
            await session.execute(last)
        await session.rollback()

    for secret in (*SECRET.split("\n"), str(NUMBER)):
        assert secret not in told(failed.value)
    assert "asyncpg" in told(failed.value), "nothing is told at all"


@pytest.mark.parametrize("rows", [[SECRET, SECRET], [NUMBER]])
async def test_an_error_of_many_rows_at_once_names_no_value(database: Database, rows: list[object]) -> None:
    """The driver's own COPY, which SQLAlchemy knows nothing of."""
    async with database.transaction() as session:
        await session.execute(text("CREATE TEMPORARY TABLE many (value text PRIMARY KEY)"))
        with pytest.raises(Exception) as failed:  # noqa: PT011
            await copy_rows(session, "many", ["value"], [(row,) for row in rows])
        await session.rollback()

    for secret in (*SECRET.split("\n"), str(NUMBER)):
        assert secret not in told(failed.value)


async def test_the_migrations_name_no_value_either(clean_settings: Settings) -> None:
    """They have an engine of their own, made in the same place."""
    from shop.database_engine import database_engine

    assert database_engine(clean_settings.database_url).sync_engine.hide_parameters
