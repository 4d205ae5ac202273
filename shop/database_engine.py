"""The engine: how a connection is made, when it is thrown away, and what an error of it may say.

A connection is thrown away when the network has forgotten it, or when its server can no longer be written to: behind
the same name there may be a new primary. No value of a statement stays in an error: errors are logged.
"""

import re
from typing import Any

import asyncpg
from sqlalchemy import AdaptedConnection, ExceptionContext, event
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from shop.settings.database_url import database_address

# The server has become a standby or read-only, or a pooler has moved this session to a server that knows nothing of it.
ELSEWHERE = frozenset({"25006", "26000"})
NAME_LENGTH_MAX = 63  # Postgres cuts what is longer
# The driver names an argument by its place and its value; Postgres quotes what it could not read (SQLSTATE class 22).
ARGUMENT = re.compile(r"(query argument \$\d+[^:]*): .*", re.DOTALL)
QUOTED = re.compile(r'".*"', re.DOTALL)


class CannotConnect(ConnectionError):
    """Postgres was asked for a connection and did not give one; `sqlstate` says why, or is ''."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.sqlstate: str = getattr(error, "sqlstate", None) or ""


def database_engine(url: str, *, connect_args: dict[str, Any] | None = None, **pool: Any) -> AsyncEngine:
    """An engine for this URL; `connect_args` are the driver's and come before what the URL says."""
    address = database_address(url)
    arguments = {**address.arguments, **(connect_args or {})}
    if address.connect_seconds is not None:
        arguments["timeout"] = address.connect_seconds
    settings = dict(arguments.get("server_settings", {}))
    if name := named(url, settings.get("application_name", "")):
        settings["application_name"] = name
    if address.options:
        settings["options"] = address.options
    arguments["server_settings"] = settings
    engine = create_async_engine(
        "postgresql+asyncpg://",
        connect_args={"async_creator_fn": _connect, **arguments},
        hide_parameters=True,
        **pool,
    )
    event.listen(engine.sync_engine, "handle_error", _handle_error)
    return engine


def named(url: str, application_name: str) -> str:
    """What a session is called: the shop's own name for it, and the operator's behind it if the URL has one."""
    theirs = database_address(url).application_name
    return f"{application_name} {theirs}".strip()[:NAME_LENGTH_MAX]


async def _connect(*_: Any, **arguments: Any) -> "asyncpg.Connection[asyncpg.Record]":
    try:
        return await asyncpg.connect(**arguments)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise CannotConnect(error) from error


def _handle_error(context: ExceptionContext) -> None:
    without_values(context.sqlalchemy_exception or context.original_exception)
    if getattr(context.original_exception, "sqlstate", None) in ELSEWHERE:
        context.is_disconnect = True


def without_values(error: BaseException) -> None:
    """Take from an error, and from what caused it, whatever it tells of the values of a statement or a row."""
    about_data = str(getattr(getattr(error, "orig", error), "sqlstate", "")).startswith("22")
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, asyncpg.PostgresError | asyncpg.InterfaceError):
            seen.detail = None
        seen.args = tuple(_without_values(each, about_data) if isinstance(each, str) else each for each in seen.args)
        seen = seen.__cause__ or getattr(seen, "orig", None)


def _without_values(message: str, about_data: bool) -> str:
    message = ARGUMENT.sub(r"\1", message)
    return QUOTED.sub('"…"', message) if about_data else message


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
