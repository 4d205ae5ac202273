"""A provider that says, byte for byte, what a test wants it to say."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tests.harness import wait_until
from tests.payments.sandbox.running import HOST, read_request

Reply = Callable[[asyncio.StreamWriter], Awaitable[None]]

INTENT: dict[str, Any] = {
    "id": "pi_1",
    "order_id": "an-order",
    "amount_minor": 990,
    "currency": "EUR",
    "status": "open",
    "captured_minor": 0,
    "refunded_minor": 0,
    "refunds": [],
    "attempts": 0,
    "pay_url": "https://pay.example/pi_1",
    "created_at": "2026-11-21T12:00:00Z",
}
EVENT: dict[str, Any] = {
    "id": "evt_1",
    "seq": 1,
    "type": "payment.created",
    "created_at": "2026-11-21T12:00:00Z",
    "data": INTENT,
}


@dataclass
class RawProvider:
    """Answers each request with the next of `replies`, and the last one for ever."""

    replies: list[Reply]
    url: str = ""
    requests: list[dict[str, str]] = field(default_factory=list)
    connections: int = 0
    connections_most: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer on one connection."""
        self.connections += 1
        self.connections_most = max(self.connections_most, self.connections)
        with closing(writer):
            while not writer.is_closing() and (request := await read_request(reader)):
                self.requests.append(request[0])
                reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
                await reply(writer)
        self.connections -= 1

    async def until_asked(self, count: int) -> None:
        """Return when so many requests have come."""

        async def asked() -> bool:
            return len(self.requests) >= count

        await wait_until(asked, reason=f"{count} requests came")


@asynccontextmanager
async def raw_provider(*replies: Reply) -> AsyncIterator[RawProvider]:
    """A provider that replies in this way, in this process."""
    provider = RawProvider(list(replies))
    listening = await asyncio.start_server(provider.serve, HOST, 0)
    provider.url = f"http://{HOST}:{listening.sockets[0].getsockname()[1]}"
    try:
        yield provider
    finally:
        listening.close()


def says(value: object, status: int = 200) -> Reply:
    """A JSON value."""
    return says_bytes(msgspec.json.encode(value), status)


def says_bytes(body: bytes, status: int = 200, *headers: str) -> Reply:
    """A body, whatever it is."""

    async def reply(writer: asyncio.StreamWriter) -> None:
        lines = (f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}", *headers, "", "")
        writer.write("\r\n".join(lines).encode() + body)

    return reply


def says_intent(**changes: object) -> Reply:
    """An intent, with some of its fields changed."""
    return says({**INTENT, **changes})


async def cuts(writer: asyncio.StreamWriter) -> None:
    """The connection is cut instead of an answer."""
    writer.transport.abort()


async def cuts_in_the_middle(writer: asyncio.StreamWriter) -> None:
    """The connection is cut within the answer."""
    writer.write(b'HTTP/1.1 200 Said\r\nContent-Length: 1000\r\n\r\n{"id": "pi_1", ')
    await writer.drain()
    writer.close()


async def stalls(_: asyncio.StreamWriter) -> None:
    """Nothing is said."""


async def drips(writer: asyncio.StreamWriter) -> None:
    """A byte at a time, each in time, and no end."""
    writer.write(b"HTTP/1.1 200 Said\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(1_000):
        writer.write(b" ")
        await asyncio.sleep(0.01)
        if writer.is_closing():
            return


def says_when(event: asyncio.Event, then: Reply) -> Reply:
    """What `then` says, once the event is set."""

    async def reply(writer: asyncio.StreamWriter) -> None:
        await event.wait()
        await then(writer)

    return reply
