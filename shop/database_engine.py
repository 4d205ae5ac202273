"""The engine: how a connection is made, when it is thrown away, and what an error of it may say.

A connection is thrown away when the network has forgotten it, or when its server can no longer be written to: behind
the same name there may be a new primary. No value of a statement stays in an error: errors are logged.
"""

import re
import socket
from functools import partial
from typing import Any

import asyncpg
from sqlalchemy import ExceptionContext, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from shop.connection_pool import BoundedPool, seconds_left
from shop.settings.database_url import database_address

# The server has become a standby or read-only, or a pooler has moved this session to a server that knows nothing of it.
ELSEWHERE = frozenset({"25006", "26000"})
LOCK_TIMEOUT = "lock_timeout"
TCP_OPTIONS = {
    "tcp_keepalives_idle": "TCP_KEEPIDLE",
    "tcp_keepalives_interval": "TCP_KEEPINTVL",
    "tcp_keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}
NAME_LENGTH_MAX = 63  # Postgres cuts what is longer
# The driver names an argument by its place and its value; Postgres quotes what it could not read (SQLSTATE class 22).
ARGUMENT = re.compile(r"(query argument \$\d+[^:]*): .*", re.DOTALL)
QUOTED = re.compile(r'".*"', re.DOTALL)


class CannotConnect(ConnectionError):
    """Postgres was asked for a connection and did not give one; `sqlstate` says why, or is ''."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.sqlstate: str = getattr(error, "sqlstate", None) or ""


def database_engine(
    url: str, *, connect_args: dict[str, Any] | None = None, silence_seconds: int | None = None, **pool: Any
) -> AsyncEngine:
    """An engine for this URL; `connect_args` are the driver's and come before what the URL says.

    The kernel closes a TCP connection whose other end says nothing for `silence_seconds`.
    """
    address = database_address(url)
    arguments = {**address.arguments, **(connect_args or {})}
    if address.connect_seconds is not None:
        arguments["timeout"] = address.connect_seconds
    settings = dict(arguments.get("server_settings", {}))
    if LOCK_TIMEOUT in address.options:
        settings.pop(LOCK_TIMEOUT, None)  # The operator knows better what else locks their rows.
    if name := named(url, settings.get("application_name", "")):
        settings["application_name"] = name
    if address.options:
        settings["options"] = address.options
    arguments["server_settings"] = settings
    is_bounded = pool.get("poolclass") is BoundedPool
    engine = create_async_engine(
        "postgresql+asyncpg://",
        connect_args={"async_creator_fn": partial(_connect, silence_seconds, is_bounded), **arguments},
        hide_parameters=True,
        **pool,
    )
    event.listen(engine.sync_engine, "handle_error", _handle_error)
    return engine


async def fetch(engine: AsyncEngine, query: str, *arguments: object) -> list[asyncpg.Record]:
    """The rows of one statement for the driver, which sees one moment. It costs a quarter of what a session does."""
    async with engine.connect() as connection:
        raw = await connection.get_raw_connection()
        driver: asyncpg.Connection[asyncpg.Record] = raw.driver_connection  # type: ignore[assignment]
        try:
            return await driver.fetch(query, *arguments)
        except BaseException as error:
            without_values(error)
            await connection.invalidate()  # It may be broken, or still at it.
            raise


def named(url: str, application_name: str) -> str:
    """What a session is called: the shop's own name for it, and the operator's behind it if the URL has one."""
    theirs = database_address(url).application_name
    return f"{application_name} {theirs}".strip()[:NAME_LENGTH_MAX]


def tcp_silence(seconds: int) -> dict[str, int]:
    """What ends a TCP connection after so long without a word of the other end, as Postgres names it.

    An idle one is asked from half of the time on; what was sent and not confirmed has all of it.
    """
    quarter = max(1, seconds // 4)
    return {
        "tcp_keepalives_idle": max(1, seconds - 2 * quarter),
        "tcp_keepalives_interval": quarter,
        "tcp_keepalives_count": 2,
        "tcp_user_timeout": seconds * 1000,
    }


async def _connect(
    silence_seconds: int | None, is_bounded: bool, *_: Any, **arguments: Any
) -> "asyncpg.Connection[asyncpg.Record]":
    if is_bounded and "timeout" in arguments:  # Another engine knows nothing of the deadline of a pool.
        arguments["timeout"] = seconds_left(arguments["timeout"])
    try:
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(**arguments)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise CannotConnect(error) from error
    if silence_seconds is not None:
        _close_when_silent(connection, silence_seconds)
    return connection


def _close_when_silent(connection: "asyncpg.Connection[asyncpg.Record]", seconds: int) -> None:
    transport = connection._transport  # type: ignore[attr-defined]  # noqa: SLF001 - the driver has no name for it
    peer = transport.get_extra_info("socket")
    if peer is None or peer.family == socket.AF_UNIX:
        return
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in tcp_silence(seconds).items():
        option = getattr(socket, TCP_OPTIONS[name], None)  # Not every system has each of them.
        if option is not None:
            peer.setsockopt(socket.IPPROTO_TCP, option, value)


def _handle_error(context: ExceptionContext) -> None:
    error = context.original_exception
    without_values(context.sqlalchemy_exception or error)
    if getattr(error, "sqlstate", None) in ELSEWHERE:
        context.is_disconnect = True
    if isinstance(error, TimeoutError) and context.connection is not None:
        # Postgres ends a statement sooner by itself, so this server is gone; to say goodbye to it takes seconds.
        context.is_disconnect = context.invalidate_pool_on_disconnect = True
        if (driver := context.connection.connection.driver_connection) is not None:
            driver.terminate()


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
