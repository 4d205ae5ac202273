"""Connections to Postgres that the network has forgotten, found before anybody waits on them."""

from sqlalchemy import AdaptedConnection, event
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry


def ping_before_use(engine: AsyncEngine, seconds: float, *, gone: tuple[type[Exception], ...]) -> None:
    """Replace a connection that does not answer in time, and all that are as old; `gone` is what says so.

    SQLAlchemy's own ping waits for as long as a statement may take, on each half-open connection again.
    """

    @event.listens_for(engine.sync_engine, "checkout")
    def ping(connection: AdaptedConnection, record: ConnectionPoolEntry, _: object) -> None:
        if "used" not in record.info:
            record.info["used"] = True  # It was made a moment ago.
            return
        try:
            connection.run_async(lambda driver: driver.fetchrow(";", timeout=seconds))
        except gone as error:
            raise InvalidatePoolError from error
