"""Connections to Postgres that die: no busy one is asked whether it lives, and none that is known dead is lent."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import asyncpg
import psutil
import pytest
from sqlalchemy import event, text

from loadtests.chaos import LoseReply, Pass, chaos_proxy
from shop.database import UNAVAILABLE_ERRORS, CommitUnknown, Database
from shop.embedded import PostgresServer
from shop.settings import Settings
from tests.faults.operating import operator
from tests.harness import wait_until
from tests.processes import copy_of, frozen

PING_SECONDS = 0.3
ALWAYS, NEVER = 1e-9, 3_600.0  # as the time after which an idle connection is pinged
COMMIT = b"COMMIT"


@asynccontextmanager
async def connected(settings: Settings, number: int, *, ping_after: float = NEVER) -> AsyncIterator[Database]:
    """A pool with so many connections, all open and idle."""
    own = copy_of(
        settings,
        database_ping_idle_seconds=ping_after,
        database_ping_seconds=PING_SECONDS,
        database_statement_timeout_seconds=0.2,
    )
    database = Database(own, application_name="shop-tests", pool_max=number)
    await database.keep_open(number)
    try:
        yield database
    finally:
        await database.close()


async def backend_of(database: Database) -> int:
    """The process that serves one transaction."""
    async with database.transaction() as session:
        return int((await session.execute(text("SELECT pg_backend_pid()"))).scalar_one())


async def backends_of(database: Database, number: int) -> set[int]:
    """The processes that serve so many transactions at once."""
    together = asyncio.Barrier(number)

    async def backend() -> int:
        async with database.transaction() as session:
            pid = int((await session.execute(text("SELECT pg_backend_pid()"))).scalar_one())
            await together.wait()
            return pid

    return set(await asyncio.gather(*(backend() for _ in range(number))))


async def until_open(database: Database, number: int) -> None:
    """Wait until this process has noticed the end of all other connections."""

    async def noticed() -> bool:
        return database.connections_open == number

    await wait_until(noticed, reason=f"{number} connections are open")


@contextmanager
def silent(pids: set[int]) -> Iterator[None]:
    """Within it these backends answer nothing, and nobody is told: half-open connections."""
    backends = [psutil.Process(pid) for pid in pids]
    for backend in backends:
        backend.suspend()
    try:
        yield
    finally:
        for backend in backends:
            backend.resume()


async def test_a_connection_that_is_busy_is_never_pinged_and_one_that_was_idle_is(clean_settings: Settings) -> None:
    """A ping costs as much as a statement."""
    asked = []
    for ping_after in (NEVER, ALWAYS):
        async with connected(clean_settings, 1, ping_after=ping_after) as database:
            async with database.transaction() as session:
                raw = await (await session.connection()).get_raw_connection()
                driver = raw.driver_connection
                assert isinstance(driver, asyncpg.Connection)
                driver.add_query_logger(lambda record: asked.append(record.query))
            for _ in range(3):
                await backend_of(database)
            if ping_after == NEVER:
                assert asked.count(";") == 0
    assert asked.count(";") == 3


async def test_no_request_fails_on_connections_that_the_server_has_ended(breakable: Settings) -> None:
    async with connected(breakable, 3) as database, operator(breakable) as connection:
        ended = await backends_of(database, 3)
        await connection.execute("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", sorted(ended))
        await until_open(database, 0)

        found = await backends_of(database, 3)

        assert len(found) == 3
        assert not found & ended


async def test_one_connection_that_was_ended_costs_the_others_nothing(breakable: Settings) -> None:
    async with connected(breakable, 3) as database, operator(breakable) as connection:
        first = await backends_of(database, 3)
        ended = min(first)
        await connection.execute("SELECT pg_terminate_backend($1)", ended)
        await until_open(database, 2)

        found = await backends_of(database, 3)

        assert found & first == first - {ended}


async def test_after_a_restart_of_postgres_no_request_fails(postgres: PostgresServer, breakable: Settings) -> None:
    async with connected(breakable, 3) as database:
        await asyncio.to_thread(postgres.stop)
        await until_open(database, 0)
        with pytest.raises(UNAVAILABLE_ERRORS):
            await backend_of(database)
        await asyncio.to_thread(postgres.start)

        assert len(await backends_of(database, 3)) == 3


async def test_connections_that_are_kept_are_opened_again_before_somebody_needs_them(breakable: Settings) -> None:
    """What is kept is for when Postgres takes no more; a dead connection is no help then."""
    async with connected(breakable, 3) as database, operator(breakable) as connection:
        ended = await backends_of(database, 3)
        await connection.execute("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", sorted(ended))
        await until_open(database, 0)

        await database.keep_open(3)

        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1"
        assert await connection.fetchval(query, "shop-tests") == 3


async def test_a_half_open_connection_that_was_idle_is_replaced_with_all_that_are_as_old(breakable: Settings) -> None:
    """One ping is waited for, not one for each, and nobody says goodbye to the dead."""
    async with connected(breakable, 4, ping_after=ALWAYS) as database:
        forgotten = await backends_of(database, 4)
        with silent(forgotten):
            started = time.monotonic()
            found = {await backend_of(database) for _ in range(4)}
            took = time.monotonic() - started

        assert not found & forgotten
        assert took < 2 * PING_SECONDS + 0.5


async def test_one_statement_is_lost_on_half_open_connections_that_were_just_used(breakable: Settings) -> None:
    """It waits as long as a statement may; whoever comes next gets a new connection at once."""
    async with connected(breakable, 4) as database:
        forgotten = await backends_of(database, 4)
        with silent(forgotten):
            with pytest.raises(UNAVAILABLE_ERRORS):
                await backend_of(database)
            started = time.monotonic()
            found = {await backend_of(database) for _ in range(4)}
            took = time.monotonic() - started

        assert not found & forgotten
        assert took < 1.0


async def test_nobody_waits_longer_for_a_connection_than_they_may_while_postgres_hangs(
    postgres: PostgresServer, breakable: Settings
) -> None:
    """Be it in the line, for a ping or for a new connection: some do one after the other."""
    impatient = copy_of(breakable, database_pool_wait_seconds=2 * PING_SECONDS, database_connect_seconds=3)
    async with connected(impatient, 2, ping_after=ALWAYS) as database:
        with frozen(postgres.pid):
            started = time.monotonic()
            for _ in range(2):
                tries = await asyncio.gather(*(backend_of(database) for _ in range(6)), return_exceptions=True)
                assert all(isinstance(error, UNAVAILABLE_ERRORS) for error in tries), tries
            took = time.monotonic() - started
        assert took < 2 * (2 * PING_SECONDS + 0.5)

        assert len(await backends_of(database, 2)) == 2


async def test_a_commit_without_an_answer_is_not_done_again(breakable: Settings) -> None:
    """It took place; whoever asked is told that nobody knows, and decides by the key of the request."""
    async with operator(breakable) as connection, chaos_proxy(breakable.database_url) as proxy:
        await connection.execute("CREATE TABLE written (x int)")
        async with connected(copy_of(breakable, database_url=proxy.url), 2) as database:
            await proxy.be(LoseReply(COMMIT, reset=True))
            with pytest.raises(CommitUnknown):
                async with database.transaction() as session:
                    await session.execute(text("INSERT INTO written VALUES (1)"))
            await proxy.be(Pass())

            async with database.transaction() as session:
                assert (await session.execute(text("SELECT count(*) FROM written"))).scalar_one() == 1


async def test_the_kernel_gives_up_a_peer_that_has_gone_silent(breakable: Settings) -> None:
    """It probes an idle connection, and does not send for a quarter of an hour what nobody confirms."""
    async with chaos_proxy(breakable.database_url) as proxy:
        through = copy_of(breakable, database_url=proxy.url, database_silence_seconds=8)
        found: list[int] = []
        database = Database(through, application_name="shop-tests", pool_max=1)

        @event.listens_for(database.engine.sync_engine, "connect")
        def look(connection: object, _: object) -> None:
            peer = connection.driver_connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
            found.extend(peer.getsockopt(socket.IPPROTO_TCP, option) for option in options)
            found.append(peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))

        await backend_of(database)
        await database.close()

    assert found == [4, 2, 2, 8_000, 1]
