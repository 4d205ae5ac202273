"""Reads wait their share: what changes something is read first, and each kind of reads in its order."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.types import Scope

from shop.server.answers import Answer
from shop.server.read_queue import AT_ONCE, SECONDS_ALONE
from tests.server.by_path import KNOWN, ByPath, Served, request, served

READERS = 120
# So much of the loop a read takes here; an iteration has time for a few of them.
READ_SECONDS = SECONDS_ALONE / 20
IN_AN_ITERATION_MAX = AT_ONCE + 25


@dataclass
class Busy(ByPath):
    """Notes in which order requests are answered; each takes some of the loop's time."""

    answered: list[str] = field(default_factory=list)

    def answer(self, scope: Scope, body: bytes) -> "Answer | asyncio.Future[Answer] | None":
        if scope["path"].startswith("/later"):
            return super().answer(scope, body)
        ends_at = time.perf_counter() + READ_SECONDS
        while time.perf_counter() < ends_at:
            pass
        self.answered.append(scope["path"])
        return KNOWN


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def crowd(connection: Served, count: int) -> AsyncIterator[list[Stream]]:
    """More connections to the same server."""
    address = connection.writer.get_extra_info("peername")
    streams = [await asyncio.open_connection(*address) for _ in range(count)]
    try:
        yield streams
    finally:
        for _, writer in streams:
            writer.transport.abort()


async def test_what_changes_something_does_not_wait_for_all_who_read() -> None:
    busy = Busy()
    async with served(busy) as connection, crowd(connection, READERS) as readers:
        for number, (_, writer) in enumerate(readers):
            writer.write(request(f"/read/{number}"))
        connection.writer.write(request("/buy", method="POST"))

        assert await connection.answers(1) == [(409, b"gone")]
        ahead = busy.answered.index("/buy")
        for reader, _ in readers:
            await reader.readuntil(b"gone")

    assert ahead <= IN_AN_ITERATION_MAX, "readers were answered first"
    reads = [path for path in busy.answered if path != "/buy"]
    assert reads == [f"/read/{number}" for number in range(READERS)], "readers wait in their order"


async def test_reads_leave_more_of_the_loop_to_those_who_have_something_under_way() -> None:
    """And what is left, when nobody has."""

    async def longest_run(behind: bytes) -> int:
        """How many of the reads one iteration of the loop has handled at most."""
        busy = Busy()
        async with served(busy) as connection, crowd(connection, READERS) as readers:
            connection.writer.write(behind)
            for _, writer in readers:
                writer.write(request("/read/1"))
            await readers[0][0].readuntil(b"gone")
            iterations: list[int] = []
            while len(busy.answered) < READERS:
                before = len(busy.answered)
                await asyncio.sleep(0)
                iterations.append(len(busy.answered) - before)
            return max(iterations)

    assert await longest_run(b"") > 2 * AT_ONCE
    assert await longest_run(request("/later/1", method="POST")) <= 2 * AT_ONCE


async def test_kinds_of_reads_are_answered_by_their_weights() -> None:
    """The second kind does not wait until the first has no more, nor the other way round."""
    busy = Busy()
    half = READERS // 2
    async with served(busy) as connection, crowd(connection, 2 * half) as readers:
        for number, (_, writer) in enumerate(readers):
            writer.write(request("/read/" if number < half else "/first"))
        for reader, _ in readers:
            await reader.readuntil(b"gone")

    contended = busy.answered[AT_ONCE : AT_ONCE + half]
    assert contended.count("/first") == 2 * contended.count("/read/"), contended


async def test_a_read_that_comes_in_pieces_while_others_wait_is_answered_once() -> None:
    busy = Busy()
    async with served(busy) as connection, crowd(connection, READERS) as readers:
        for _, writer in readers:
            writer.write(request("/read/other"))
        whole = request("/read/cut") + request("/read/pipelined")
        for start in range(0, len(whole), 7):
            connection.writer.write(whole[start : start + 7])
            await asyncio.sleep(0)

        assert await connection.answers(2) == [(409, b"gone")] * 2
        for reader, _ in readers:
            await reader.readuntil(b"gone")

    assert [path for path in busy.answered if path != "/read/other"] == ["/read/cut", "/read/pipelined"]


async def test_who_leaves_while_waiting_holds_up_nobody() -> None:
    busy = Busy()
    async with served(busy) as connection, crowd(connection, READERS) as readers:
        for _, writer in readers:
            writer.write(request("/read/gone"))
        connection.writer.write(request("/buy", method="POST"))
        await connection.answers(1)
        for _, writer in readers:
            writer.transport.abort()
        connection.writer.write(request("/read/mine"))
        assert await connection.answers(1) == [(409, b"gone")]

    assert busy.answered[-1] == "/read/mine"
    assert len(busy.answered) < READERS
