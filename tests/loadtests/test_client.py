"""The HTTP client of the load tests: what it understands, and what it refuses."""

import asyncio

import pytest

from loadtests.client.http import Address, Connection, ConnectionLostError, HttpError, Pool
from tests.loadtests.endpoint import answer, endpoint, in_turn, until


async def test_the_client_understands_chunks_and_an_answer_in_pieces() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            await reader.readuntil(b"\r\n\r\n")
            pieces = [
                b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.",
                b"1 200 OK\r\nX-One: 1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n",
            ]
            for piece in [*pieces, b"ab", b"cd\r\n2\r\nef\r\n0\r\n\r\n"]:
                writer.write(piece)
                await asyncio.sleep(0)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        connection = await Connection.open(address, timeout_seconds=2)
        for _ in range(2):
            response = await connection.exchange(address.request("GET", "/", headers={}), timeout_seconds=2)
            assert (response.status, response.headers[b"x-one"], response.body) == (200, b"1", b"abcdef")
        await until(lambda: not connection.usable)
        with pytest.raises(ConnectionLostError):
            await connection.exchange(b"", timeout_seconds=2)


@pytest.mark.parametrize(
    "garbage",
    [b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", answer(200, x="x" * 2_000_000)],
    ids=["another protocol", "a broken length", "too long"],
)
async def test_an_answer_that_cannot_be_read_closes_the_connection_and_says_so(garbage: bytes) -> None:
    async with endpoint(in_turn(garbage)) as shop:
        address = Address.of(shop.base_url)
        pool = Pool(address, size=1, connect_timeout_seconds=2)
        connection = await pool.borrow()
        with pytest.raises(HttpError) as raised:
            await connection.exchange(
                address.request("POST", "/", headers={"Authorization": "Bearer t"}), timeout_seconds=2
            )
        pool.give_back(connection)

        assert raised.value.code == "answer_unreadable"
        assert await pool.borrow() is not connection


def test_an_address_that_the_client_cannot_speak_to_and_a_header_of_two_lines_are_refused() -> None:
    with pytest.raises(ValueError, match="http://host:port"):
        Address.of("https://127.0.0.1:8000")
    with pytest.raises(ValueError, match="one line"):
        Address("127.0.0.1", 1).request("GET", "/", headers={"Authorization": "x\r\nX-Evil: 1"})
