"""What Postgres itself says of the work that a query is."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session


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


async def plans_of(session: AsyncSession, work: Callable[[AsyncSession], Awaitable[object]]) -> list[dict[str, Any]]:
    """The plan of every query of this work, as it was carried out."""
    sent: list[tuple[str, Any]] = []

    def note(_: object, __: object, statement: str, parameters: Any, *___: object) -> None:
        sent.append((statement, parameters))

    connection = (await session.connection()).sync_connection
    event.listen(connection, "before_cursor_execute", note)
    await work(session)
    event.remove(connection, "before_cursor_execute", note)
    found = []
    for statement, parameters in sent:

        def explain(inside: Session, statement: str = statement, parameters: Any = parameters) -> Any:
            explained = "EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) " + statement
            return inside.connection().exec_driver_sql(explained, parameters).scalar_one()

        [plan] = await session.run_sync(explain)
        found.append(plan["Plan"])
    return found
