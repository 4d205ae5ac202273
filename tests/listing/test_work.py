"""What a page costs does not grow with the table, whatever is asked for: Postgres itself says what it has read."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from shop.database import Database
from tests.listing.conftest import ROWS
from tests.listing.filters import LISTS, Listed
from tests.listing.rows import TABLES

# Far more than a page of 20, of each status and kind; far less than to look for rare rows among the others.
ROWS_READ_MAX = ROWS // 20
# These look for few among all addresses with a beginning: they read those, or all of that time.
OF_MANY_ADDRESSES = {("email_prefix", "created_from"), ("email_prefix", "created_before")}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every step of a plan."""
    yield plan
    for below in plan.get("Plans", []):
        yield from nodes(below)


def rows_read(plan: dict[str, Any]) -> float:
    """The rows that the scans of a plan have looked at."""
    looked_at = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
    scans = [node for node in nodes(plan) if "Relation Name" in node]
    return sum((float(scan.get(name, 0)) * float(scan["Actual Loops"]) for scan in scans for name in looked_at), 0.0)


async def plans_of(session: AsyncSession, listed: Listed, question: dict[str, object]) -> list[dict[str, Any]]:
    """The plan of every query of a page, as it was carried out."""
    sent: list[tuple[str, Any]] = []

    def note(_: object, __: object, statement: str, parameters: Any, *___: object) -> None:
        sent.append((statement, parameters))

    connection = (await session.connection()).sync_connection
    event.listen(connection, "before_cursor_execute", note)
    await listed.page(session, listed.asked.model_validate(question))
    event.remove(connection, "before_cursor_execute", note)
    found = []
    for statement, parameters in sent:

        def explain(inside: Session, statement: str = statement, parameters: Any = parameters) -> Any:
            explained = "EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) " + statement
            return inside.connection().exec_driver_sql(explained, parameters).scalar_one()

        [plan] = await session.run_sync(explain)
        found.append(plan["Plan"])
    return found


@pytest.mark.parametrize("listed", LISTS, ids=lambda listed: listed.name)
async def test_a_page_reads_as_many_rows_as_it_shows_and_not_the_table(many: Database, listed: Listed) -> None:
    """However rare what is asked for is: each filter alone, and each two together."""
    dear = {}
    async with many.transaction() as session:
        for question in listed.questions():
            for plan in await plans_of(session, listed, question):
                whole = [node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"]
                read = rows_read(plan)
                if tuple(question) in OF_MANY_ADDRESSES:
                    continue
                if read > ROWS_READ_MAX or set(whole) & (set(TABLES) - {"sales"}):
                    dear[str(question)] = (read, whole)

    assert dear == {}
