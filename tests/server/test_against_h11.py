"""What the server reads is what h11 reads, however the bytes are cut, joined and pipelined: nothing can be smuggled."""

import asyncio
import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from shop.seckill.whole_purchases import whole_purchase
from shop.server.connections import Connections
from shop.server.gate import OverloadGate
from shop.server.serving import server_config
from shop.settings import Settings
from tests.server.against_h11 import STRANGE_LINES, Read, bad_streams, cut, read_by_h11, requests
from tests.server.by_path import ByPath, Watched, changes_of, listed_changes

EXAMPLES = 100
ANSWERED_SECONDS_MAX = 5.0
# What comes of bytes that may be no whole request is waited for no longer than this.
QUIET_SECONDS = 0.004
PURCHASE_LINE = b"POST /v1/seckill/sales/7/orders HTTP/1.1\r\n"


class Recorder:
    """A server whose application writes down each request that is complete."""

    def __init__(self, shop_settings: Settings) -> None:
        self.read: list[Read] = []
        self._more = asyncio.Event()
        self._config = server_config(lambda: self, shop_settings)
        self._config.load()
        gate = OverloadGate(delay_seconds_max=60.0, refused_at_once_max=1_000)
        self._connections = Connections(shop_settings, ByPath(), gate, on_stop=lambda: None)
        self._server = ServerState()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message["more_body"]
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        self.read.append(Read(scope["method"].encode(), target, tuple(scope["headers"]), body))
        self._more.set()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async def take(self, pieces: list[bytes], *, expected: int | None = None) -> list[Read]:
        """The requests that reach the application when these bytes come; as many as `expected` are waited for."""
        self.read = []
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours:
            ours.setblocking(False)
            theirs.setblocking(False)
            transport, connection = await loop.connect_accepted_socket(
                lambda: Watched(self._config, self._server, self._connections), theirs
            )
            for piece in pieces:
                if piece:
                    try:
                        await loop.sock_sendall(ours, piece)
                    except (BrokenPipeError, ConnectionResetError):
                        break  # It has refused what came before.
                    await asyncio.sleep(0)
            if expected is None:
                await asyncio.sleep(QUIET_SECONDS)
            else:
                async with asyncio.timeout(ANSWERED_SECONDS_MAX):
                    while len(self.read) < expected:
                        self._more.clear()
                        await self._more.wait()
            transport.abort()
            await asyncio.sleep(0)
            assert changes_of(connection.path) <= listed_changes(), connection.path
        return self.read


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    """A loop of this module's own: Hypothesis calls plain functions."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    return Recorder(Settings(_env_file=None, environment="development", redis_url="redis://nowhere"))


often = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@often
@given(data=st.data())
def test_good_requests_are_read_whole_and_in_their_order(
    loop: asyncio.Runner, recorder: Recorder, data: st.DataObject
) -> None:
    sent = data.draw(st.lists(requests(), min_size=1, max_size=6))
    stream = b"".join(sent)
    expected = list(read_by_h11(stream))
    assert len(expected) == len(sent)

    assert loop.run(recorder.take(data.draw(cut(stream)), expected=len(sent))) == expected


@often
@given(data=st.data())
def test_no_bytes_make_a_request_that_another_parser_would_not_read(
    loop: asyncio.Runner, recorder: Recorder, data: st.DataObject
) -> None:
    """A refusal is always allowed; a request that only one of two servers sees could be smuggled past the other."""
    stream = data.draw(bad_streams())

    read = loop.run(recorder.take(data.draw(cut(stream))))

    assert read == list(read_by_h11(stream))[: len(read)]


@often
@given(data=st.data())
def test_what_passes_for_a_whole_purchase_is_one_request_for_every_parser(data: st.DataObject) -> None:
    """The pattern that reads a purchase unparsed may be looser than a parser, but never means another request."""
    body = data.draw(st.binary(max_size=30))
    lines = [b"Host: shop", b"Content-Length: %d" % len(body), b"X-Request-Id: abc", b"Authorization: Bearer x"]
    lines += data.draw(st.lists(st.sampled_from(STRANGE_LINES), max_size=1))
    lines = data.draw(st.permutations(lines))
    stream = bytearray(PURCHASE_LINE + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body)
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(stream) - 1))
        stream[at : at + 1] = data.draw(st.sampled_from([b"", b"\r", b"\n", b"\0", b" ", b":", b"\t", b"1", b"\r\n"]))

    found = whole_purchase(bytes(stream))

    if found is None:
        return
    for only in read_by_h11(bytes(stream)):
        headers = dict(only.headers)
        assert (only.method, only.target.decode()) == (b"POST", found.path)
        assert found.headers.request_id == headers.get(b"x-request-id")
        assert found.headers.authorization == headers.get(b"authorization", b"")
        assert found.body == only.body
