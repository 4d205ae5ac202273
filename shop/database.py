"""The connection to Postgres, and the only place that commits.

One request, one batch or one job is one transaction. It is never held across a network call to anything else.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime
from typing import Any

import asyncpg
import structlog
from sqlalchemy import AdaptedConnection, DateTime, MetaData, event, func, text
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.types import UserDefinedType

from shop import metrics
from shop.connection_pool import BoundedPool, replace_dead_connections
from shop.database_engine import LOCK_TIMEOUT, database_engine, fetch, tcp_silence, without_values
from shop.settings import Settings

# What says that Postgres cannot be reached or cannot answer in time, as against a statement that is wrong.
UNAVAILABLE_ERRORS = (
    OperationalError,
    InterfaceError,
    PoolTimeout,
    asyncpg.PostgresConnectionError,
    asyncpg.InternalClientError,  # the driver was surprised by the end of its connection
    OSError,
    TimeoutError,
)

# What any use of it may raise: of an error of the driver, `is_unavailable` says whether the statement is wrong.
DATABASE_ERRORS = (*UNAVAILABLE_ERRORS, DBAPIError, asyncpg.PostgresError)

AFTER_COMMIT = "after_commit"
# Postgres ends a statement by itself; without an answer for so long after that, the connection is lost.
ANSWER_SECONDS = 1.0
CLOSE_SECONDS = 1.0


log = structlog.get_logger(__name__)


class CommitUnknown(ConnectionError):
    """The answer to a COMMIT did not come: it took place, or it did not."""


class Base(DeclarativeBase):
    """The rows of the shop. Names of constraints are fixed, so that a violation names its rule."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: DateTime(timezone=True)}  # noqa: RUF012 - SQLAlchemy's own interface


class Xid8(UserDefinedType[int]):
    """The number of the transaction that wrote a row, which never wraps around.

    Numbers of rows that are read in the order of an identity column can appear behind the reader's back, because
    transactions commit in another order than they begin. A reader of `tx` who stops below
    `pg_snapshot_xmin(pg_current_snapshot())` has every such transaction behind it for good.
    """

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """The name of the type in Postgres."""
        return "xid8"


# So that a migration can be compared with the models: SQLAlchemy does not know the type by itself.
ischema_names["xid8"] = Xid8


class Recorded:
    """A row that knows when it was made, by the database's clock."""

    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Database:
    """The engine of one process and its sessions."""

    def __init__(
        self,
        settings: Settings,
        *,
        application_name: str,
        pool_max: int | None = None,
        waiting_max: int | None = None,
        statement_seconds: float | None = None,
        lock_seconds: float = 0.0,
        info: Mapping[str, object] | None = None,
    ) -> None:
        """`info` is what each session carries along, for those who get nothing but the session.

        A statement waits for a lock for `lock_seconds`; if that is 0, for as long as a statement may take.
        """
        self.engine: AsyncEngine = database_engine(
            settings.database_url,
            poolclass=BoundedPool,
            pool_size=pool_max or settings.database_pool_max,
            max_overflow=0,
            pool_timeout=settings.database_pool_wait_seconds,
            waiting_max=waiting_max or settings.database_pool_waiting_max,
            connect_args=connect_arguments(settings, application_name, statement_seconds, lock_seconds),
            silence_seconds=settings.database_silence_seconds,
        )
        replace_dead_connections(
            self.engine,
            idle_seconds=settings.database_ping_idle_seconds,
            ping_seconds=settings.database_ping_seconds,
            gone=(*UNAVAILABLE_ERRORS, asyncpg.PostgresError, asyncpg.InterfaceError),
        )
        self.connections_open = 0
        """How many connections there are; one that its server has ended is none."""
        event.listen(self.engine.sync_engine, "connect", self._connected)
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False, info=dict(info or {}))

    def _connected(self, connection: AdaptedConnection, _: ConnectionPoolEntry) -> None:
        self.connections_open += 1
        # Also when the server ends it: then it is replaced before anybody wants it.
        connection.driver_connection.add_termination_listener(self._terminated)

    def _terminated(self, _: object) -> None:
        self.connections_open -= 1

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """A session that commits at the end, or rolls back when an exception leaves the block.

        What was given to `after_commit` runs then, in order, before the block is left.
        """
        async with self._sessions() as session:
            yield session
            try:
                await session.commit()
            except DATABASE_ERRORS as error:
                if is_unavailable(error):
                    raise CommitUnknown("the connection was lost while committing") from error
                raise
        for callback in session.info.pop(AFTER_COMMIT, []):
            await _run_after_commit(callback)

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """The rows of one statement that only reads; it begins no transaction. Raises what the driver raises."""
        return await fetch(self.engine, query, *arguments)

    async def keep_open(self, number: int) -> None:
        """Open connections until there are so many, or as many as the pool may have. The pool gives none back."""
        async with AsyncExitStack() as opened:
            while self.connections_open < min(number, self._pool.size()):
                await opened.enter_async_context(self.engine.connect())

    @property
    def connections_in_use(self) -> int:
        """How many connections are lent."""
        return self._pool.checkedout()

    @property
    def callers_waiting(self) -> int:
        """How many callers wait for a connection."""
        return self._pool.gate.waiting

    @property
    def _pool(self) -> BoundedPool:
        pool = self.engine.pool
        assert isinstance(pool, BoundedPool)  # noqa: S101 - what the engine was made with
        return pool

    async def close(self) -> None:
        """Close every connection, with or without the word of a Postgres that may hang."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.engine.dispose()


def connect_arguments(
    settings: Settings, application_name: str, statement_seconds: float | None, lock_seconds: float
) -> dict[str, Any]:
    """What asyncpg needs besides the URL: every wait has an end, on both sides.

    An idle session has none: the pool keeps it for when Postgres takes no more. Who lost its client is ended by TCP.
    """
    statement_seconds = statement_seconds or settings.database_statement_timeout_seconds
    idle_seconds = settings.persist_idle_in_transaction_seconds
    return {
        "timeout": settings.database_connect_seconds,
        "command_timeout": statement_seconds + ANSWER_SECONDS,
        "server_settings": {
            "application_name": application_name,
            "statement_timeout": f"{statement_seconds * 1000:.0f}",
            LOCK_TIMEOUT: f"{lock_seconds * 1000:.0f}",
            "idle_in_transaction_session_timeout": f"{idle_seconds * 1000:.0f}",
            **{name: str(value) for name, value in tcp_silence(settings.database_silence_seconds).items()},
            "timezone": "UTC",
        },
    }


async def _run_after_commit(callback: Callable[[], Awaitable[None]]) -> None:
    try:
        await callback()
    except Exception as error:
        metrics.ITEM_FAILURES.labels("after_commit").inc()
        log.error("after_commit_failed", exc_info=error)


def after_commit(session: AsyncSession, callback: Callable[[], Awaitable[None]]) -> None:
    """Run `callback` once the transaction of this session is committed, and never if it is not.

    What it fails to do is logged and left to a sweep: by then the rows are there, and the caller must be told so.
    """
    session.info.setdefault(AFTER_COMMIT, []).append(callback)


async def see_one_moment(session: AsyncSession) -> None:
    """Let all queries of this transaction see the same moment, and none write; call it before the first.

    It costs no round trip.
    """
    await session.connection(execution_options={"isolation_level": "REPEATABLE READ", "postgresql_readonly": True})


async def copy_rows(session: AsyncSession, table: str, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> None:
    """Write rows with COPY inside the session's transaction; raises what asyncpg raises."""
    connection = await session.connection()
    raw = await connection.get_raw_connection()
    driver: asyncpg.Connection[asyncpg.Record] = raw.driver_connection  # type: ignore[assignment]
    try:
        await driver.copy_records_to_table(table, columns=columns, records=rows)
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        without_values(error)
        raise


async def backend_pid(session: AsyncSession) -> int:
    """The process id of the backend that serves this session."""
    connection = await session.connection()
    raw = await connection.get_raw_connection()
    driver: asyncpg.Connection[asyncpg.Record] = raw.driver_connection  # type: ignore[assignment]
    return driver.get_server_pid()


async def end_blockers(session: AsyncSession, pid: int, *, application_name: str) -> int:
    """End the backends of this application that `pid` waits for, and no others; returns how many."""
    query = text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE pid = ANY(pg_blocking_pids(:pid)) AND application_name = :application_name"
    )
    ended = await session.execute(query, {"pid": pid, "application_name": application_name})
    return int(ended.scalar_one())


def sqlstate(error: DBAPIError) -> str:
    """The five characters that say what Postgres did not like, or '' when it never answered."""
    return getattr(error.orig, "sqlstate", None) or ""


def state_of(error: Exception) -> str:
    """The same for whatever the driver, SQLAlchemy or a connection that was not given raises."""
    return sqlstate(error) if isinstance(error, DBAPIError) else str(getattr(error, "sqlstate", None) or "")


# SQLSTATE classes of a server that is away, busy, full or about to stop, that lets nobody in under this name, whose
# database is being replaced, and of transactions that may be tried again.
UNAVAILABLE_CLASSES = ("08", "28", "3D", "40", "53", "55", "57", "58")
# Read-only, as a standby is, or a session that was idle or busy for too long; what else class 25 has is wrong. A
# prepared statement that is not there was prepared on a server from which a pooler has moved the session.
UNAVAILABLE_STATES = ("25006", "25P03", "25P04", "26000")


def is_unavailable(error: Exception) -> bool:
    """Whether an error of the driver says that Postgres cannot do it now, rather than that the statement is wrong."""
    if isinstance(error, DBAPIError | asyncpg.PostgresError):
        state = state_of(error)
        passing = state[:2] in ("", *UNAVAILABLE_CLASSES) or state in UNAVAILABLE_STATES
        return passing or (isinstance(error, DBAPIError) and error.connection_invalidated)
    return isinstance(error, UNAVAILABLE_ERRORS)


def constraint_name(error: DBAPIError) -> str:
    """The constraint that was violated, or ''."""
    cause = getattr(error.orig, "__cause__", None)
    return getattr(cause, "constraint_name", None) or ""
