"""Requests that are begun from their bytes: the answer is theirs, in its order, and the server waits for it."""

import asyncio

from shop.server.answers import WholeAnswer
from tests.harness import wait_until
from tests.server.by_path import WHOLE, ByPath, Served, request, served

FIRST = WholeAnswer(202, b"content-length: 5\r\n\r\nfirst")


async def begun(admission: ByPath, path: str) -> None:
    """Return when this one is under way."""

    async def is_begun() -> bool:
        return path in admission.replies

    await wait_until(is_begun, reason="it is begun")


async def test_another_one_behind_it_waits_for_its_answer() -> None:
    """It is the parser's then, and begins when it is its time."""
    admission = ByPath()
    async with served(admission) as connection:
        await send(connection, "/bulk/later")
        await begun(admission, "/bulk/later")
        await send(connection, "/bulk/known")

        async def read() -> bool:
            return len(connection.protocol.exchanges) == 2 or "/bulk/known" in admission.replies

        await wait_until(read, reason="the server has read it")
        admission.replies["/bulk/later"](FIRST)

        assert await connection.answers(2) == [(202, b"first"), (200, b"ok")]
        assert admission.ran == ["/bulk/known"]


async def send(connection: Served, *paths: str) -> None:
    """Send one whole request of the bulk kind after the other, and wait until the last has left."""
    for path in paths:
        connection.writer.write(request(path, method="POST"))
    await connection.writer.drain()


async def test_an_answer_at_once_and_the_next_requests_on_the_same_connection() -> None:
    async with served(ByPath()) as connection:
        for _ in range(3):
            await send(connection, "/bulk/known")
            assert await connection.answers(1) == [(409, b"gone")]
        await send(connection, "/bulk/refused")
        assert await connection.answers(1) == [(503, b"busy")]
        await send(connection, "/bulk/parsed")
        assert await connection.answers(1) == [(200, b"ok")]
        assert connection.protocol.server_state.tasks == set()


async def test_what_stands_behind_it_waits_for_its_answer() -> None:
    """Neither a task nor a scope is made for it, and the server knows that something is under way."""
    admission = ByPath()
    async with served(admission) as connection:
        await send(connection, "/bulk/later")
        await begun(admission, "/bulk/later")
        await send(connection, "/known", "/other")
        assert len(connection.protocol.server_state.tasks) == 1
        assert (admission.ran, admission.bodies) == ([], [])

        admission.replies["/bulk/later"](FIRST)

        assert await connection.answers(3) == [(202, b"first"), (409, b"gone"), (200, b"ok")]
        assert admission.ran == ["/other"]


async def test_one_that_is_left_to_the_application_is_answered_by_it_in_its_order() -> None:
    """The admission is not asked again: it has had its say."""
    admission = ByPath()
    async with served(admission) as connection:
        await send(connection, "/bulk/later")
        await begun(admission, "/bulk/later")
        await send(connection, "/known")

        admission.replies["/bulk/later"](None)

        assert await connection.answers(2) == [(200, b"ok"), (409, b"gone")]
        assert (admission.ran, admission.bodies) == (["/bulk/later"], [b""])


async def test_the_answer_to_a_client_that_is_gone_is_dropped() -> None:
    """The server waits for it all the same: what was begun has its effect."""
    admission = ByPath()
    async with served(admission) as connection:
        await send(connection, "/bulk/later")
        await begun(admission, "/bulk/later")
        connection.writer.transport.abort()
        await connection.reaches("CLOSED")
        tasks = connection.protocol.server_state.tasks
        assert len(tasks) == 1

        admission.replies["/bulk/later"](WHOLE)

        assert tasks == set()
        assert admission.ran == []


async def test_a_stopping_server_answers_what_it_has_begun_and_closes() -> None:
    admission = ByPath()
    async with served(admission) as connection:
        await send(connection, "/bulk/later")
        await begun(admission, "/bulk/later")
        connection.protocol.shutdown()

        admission.replies["/bulk/later"](FIRST)

        answer = await connection.reader.read()
        assert answer.startswith(b"HTTP/1.1 202 ")
        assert b"connection: close\r\n" in answer
        assert answer.endswith(b"first")


async def test_a_server_that_waits_no_longer_ends_the_connection_without_an_answer() -> None:
    """What became of it is unknown."""
    admission = ByPath()
    async with served(admission) as connection:
        await send(connection, "/bulk/later")
        await begun(admission, "/bulk/later")
        (under_way,) = connection.protocol.server_state.tasks
        under_way.cancel(msg="too late")

        assert await connection.reader.read() == b""
        admission.replies["/bulk/later"](FIRST)
        await asyncio.sleep(0)
        assert connection.protocol.server_state.tasks == set()
