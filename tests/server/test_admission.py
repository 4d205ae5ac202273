"""What an admission may say of a request: refused, answered at once, answered later, or left to the application."""

import asyncio

import pytest
import structlog.testing

from shop.server.answers import Answer
from tests.harness import wait_until
from tests.server.by_path import KNOWN, ByPath, request, served


async def test_an_answer_may_come_later_without_a_task_and_keeps_its_order() -> None:
    """What stands behind it waits, whether it is known at once or not."""
    admission = ByPath()
    async with served(admission) as connection:
        tasks = connection.protocol.server_state.tasks
        paths = ["/known", "/later/1", "/known", "/later/2", "/other"]
        connection.writer.write(b"".join(request(path) for path in paths))
        assert await connection.answers(1) == [(409, b"gone")]
        first = await admission.promised("/later/1")
        pending: set[object] = {first}
        assert tasks == pending, "a task was made for it"

        first.set_result(Answer(202, [(b"content-length", b"5")], b"first"))
        second = await admission.promised("/later/2")
        second.set_result(Answer(202, [(b"content-length", b"6")], b"second"))

        found = await connection.answers(4)
        assert found == [(202, b"first"), (409, b"gone"), (202, b"second"), (200, b"ok")]
        assert admission.ran == ["/other"]

        async def none_left() -> bool:
            return not tasks

        await wait_until(none_left, reason="the task of the application has ended")


async def test_an_answer_that_is_kept_is_as_it_was_after_a_client_that_asked_to_close() -> None:
    """What is said to one client about their connection is not said to those who get the same answer."""
    async with served(ByPath()) as connection:
        connection.writer.write(request("/known", "Connection: close"))
        assert b"connection: close" in (await connection.reader.read())
    async with served(ByPath()) as connection:
        connection.writer.write(request("/known") * 2)
        assert await connection.answers(2) == [(409, b"gone")] * 2


async def test_an_answer_is_asked_for_with_the_whole_body() -> None:
    """However it is cut."""
    admission = ByPath()
    async with served(admission) as connection:
        connection.writer.write(request("/known", "Content-Length: 6", method="POST") + b"abc")
        await connection.reaches("BODY")
        connection.writer.write(b"def")

        assert await connection.answers(1) == [(409, b"gone")]
    assert admission.bodies == [b"abcdef"]


async def test_an_answer_that_fails_later_is_500_and_the_next_request_is_answered() -> None:
    admission = ByPath()
    async with served(admission) as connection:
        connection.writer.write(request("/later/1") + request("/known"))
        with structlog.testing.capture_logs() as logs:
            (await admission.promised("/later/1")).set_exception(ValueError("nobody has thought of this"))
            (status, body), known = await connection.answers(2)

    assert (status, known) == (500, (409, b"gone"))
    assert [(entry["event"], entry["path"]) for entry in logs] == [("unforeseen", "/later/1")]
    assert logs[0]["request_id"].encode() in body


async def test_an_answer_that_is_cancelled_ends_its_connection_without_one() -> None:
    """What became of it is unknown."""
    admission = ByPath()
    async with served(admission) as connection:
        connection.writer.write(request("/later/1") + request("/known"))
        (await admission.promised("/later/1")).cancel()

        assert await connection.reader.read() == b""
        assert connection.protocol.server_state.tasks == set()


async def test_an_answer_for_a_client_that_is_gone_is_dropped() -> None:
    """What was begun goes on all the same."""
    admission = ByPath()
    async with served(admission) as connection:
        connection.writer.write(request("/later/1"))
        later = await admission.promised("/later/1")
        connection.writer.transport.abort()
        await connection.reaches("CLOSED")
        with structlog.testing.capture_logs() as logs:
            later.set_result(KNOWN)
            await asyncio.sleep(0)

    assert not later.cancelled()
    assert (logs, connection.protocol.server_state.tasks) == ([], set())


@pytest.mark.parametrize(("fields", "closes"), [([], False), (["Connection: close"], True)])
async def test_a_request_behind_others_is_asked_for_when_its_answer_is_the_next_one(
    fields: list[str], closes: bool
) -> None:
    """Its refusal stands where its answer would, and ends the connection where the answer would."""
    admission = ByPath()
    async with served(admission) as connection:
        connection.writer.write(request("/other") + request("/refused/1") + request("/refused/2", *fields))
        assert await connection.answers(2) == [(200, b"ok"), (503, b"busy")]
        last = await connection.reader.readuntil(b"busy")
        assert last.startswith(b"HTTP/1.1 503 ")
        assert (b"connection: close" in last) is closes
        if closes:
            assert await connection.reader.read() == b""
    assert (admission.ran, admission.bodies) == (["/other"], [b""])
