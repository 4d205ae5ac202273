"""The states of a connection are those of the table in `State`, and each change of state in it happens."""

import pytest

from tests.harness import wait_until
from tests.server.by_path import KNOWN, ByPath, Served, changes_of, listed_changes, request, served

CHUNKED, NO_CHUNK = "Transfer-Encoding: chunked", b"no chunk\r\n"
LATER = request("/later/1")
NO_REQUEST = b"no request\r\n\r\n"

# What a client sends, and through which states its connection goes until it stays in one of them.
SENT = {
    "a request": (request("/known"), "IDLE HEAD BODY IDLE"),
    "two": (request("/known") + request("/other"), "IDLE HEAD BODY IDLE HEAD BODY IDLE"),
    "half a head": (b"GET / HT", "IDLE HEAD"),
    "half a body": (request("/known", "Content-Length: 5") + b"ab", "IDLE HEAD BODY"),
    "the last request": (request("/known", "Connection: close"), "IDLE HEAD BODY IDLE CLOSED"),
    "more behind the last": (
        LATER.replace(b"Host", b"Connection: close\r\nHost") + LATER,
        "IDLE HEAD BODY IDLE DRAINING",
    ),
    "another protocol": (request("/later/1", "Connection: upgrade", "Upgrade: x"), "IDLE HEAD BODY IDLE DRAINING"),
    "no request": (NO_REQUEST, "IDLE HEAD LINGERING"),
    "no request behind one": (LATER + NO_REQUEST, "IDLE HEAD BODY IDLE HEAD DRAINING"),
    "no chunk": (request("/known", CHUNKED) + NO_CHUNK, "IDLE HEAD BODY LINGERING"),
    "no chunk behind a request": (
        LATER + request("/known", CHUNKED) + NO_CHUNK,
        "IDLE HEAD BODY IDLE HEAD BODY DRAINING",
    ),
    "refused": (request("/refused", "Content-Length: 2") + b"ab", "IDLE HEAD DISCARDING IDLE"),
    "refused, and the last": (request("/refused", "Connection: close"), "IDLE HEAD LINGERING"),
    "refused, and waiting": (request("/refused", "Content-Length: 2", "Expect: 100-continue"), "IDLE HEAD LINGERING"),
    "refused, and no chunk": (request("/refused", CHUNKED) + NO_CHUNK, "IDLE HEAD DISCARDING CLOSED"),
}


async def until_path(connection: Served, path: str) -> None:
    """Wait until the connection has come this way and no other."""

    async def come() -> bool:
        return len(connection.protocol.path) == len(path.split())

    await wait_until(come, reason=path)
    assert connection.protocol.path == path.split()


@pytest.mark.parametrize("what", SENT)
async def test_what_a_client_sends_decides_the_state_and_when_it_leaves_the_connection_is_closed(what: str) -> None:
    """One that is not read is closed when its last answer cannot be sent."""
    (sent, path), admission = SENT[what], ByPath()
    async with served(admission) as connection:
        connection.writer.write(sent)
        await until_path(connection, path)

        connection.writer.transport.abort()
        for later in admission.later.values():
            later.set_result(KNOWN)

        await until_path(connection, path.removesuffix(" CLOSED") + " CLOSED")


async def test_a_connection_that_drains_is_closed_after_the_last_answer() -> None:
    admission = ByPath()
    async with served(admission) as connection:
        connection.writer.write(LATER + NO_REQUEST)
        await connection.reaches("DRAINING")

        (await admission.promised("/later/1")).set_result(KNOWN)

        assert await connection.answers(1) == [(409, b"gone")]
        assert await connection.reader.read() == b""
        await until_path(connection, "IDLE HEAD BODY IDLE HEAD DRAINING CLOSED")


def test_each_change_in_the_table_happens() -> None:
    """So that the table has no line too many; `test_against_h11` sees that it has none too few."""
    seen = set()
    for _, path in SENT.values():
        seen |= changes_of([*path.split(), "CLOSED"])

    assert seen - {("CLOSED", "CLOSED")} == listed_changes()
