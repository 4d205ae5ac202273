"""An endpoint that answers by a script, in the place of the shop at the other end of the network."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4


@dataclass(frozen=True)
class Request:
    """What the endpoint saw: the connection it came over, the buyer's token and key, and when."""

    connection: int
    line: str
    token: str
    key: str | None
    body: bytes
    at: float

    @property
    def click(self) -> tuple[str, str | None]:
        return self.token, self.key


Answer = bytes | None
Script = Callable[[Request], Awaitable[Answer]]


@dataclass
class Endpoint:
    """A shop that answers by a script; None hangs up without an answer."""

    base_url: str = ""
    requests: list[Request] = field(default_factory=list)
    connections_made: int = 0
    connections_open: int = 0
    connections_open_max: int = 0

    def of_token(self, token: str) -> list[Request]:
        return [request for request in self.requests if request.token == token]


@asynccontextmanager
async def endpoint(script: Script) -> AsyncIterator[Endpoint]:
    """Serve the script on a free port of the loopback."""
    shop = Endpoint()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shop.connections_made += 1
        shop.connections_open += 1
        shop.connections_open_max = max(shop.connections_open_max, shop.connections_open)
        number = shop.connections_made
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                request = await read_request(reader, number)
                shop.requests.append(request)
                answer = await script(request)
                if answer is None:
                    break
                writer.write(answer)
        shop.connections_open -= 1
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    shop.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield shop
    finally:
        server.close()


async def read_request(reader: asyncio.StreamReader, connection: int) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    line, *fields = head.rstrip().split("\r\n")
    headers = dict(header.split(": ", 1) for header in fields)
    return Request(
        connection=connection,
        line=line,
        token=headers["Authorization"].removeprefix("Bearer "),
        key=headers.get("Idempotency-Key"),
        body=await reader.readexactly(int(headers["Content-Length"])),
        at=time.monotonic(),
    )


def answer(status: int, /, *, retry_after: int | None = None, **members: Any) -> bytes:
    body = json.dumps(members).encode()
    pause = f"Retry-After: {retry_after}\r\n" if retry_after is not None else ""
    return f"HTTP/1.1 {status} -\r\n{pause}Content-Length: {len(body)}\r\n\r\n".encode() + body


def refusal(status: int, code: str, **members: Any) -> bytes:
    return answer(status, code=code, **members)


def reserved() -> bytes:
    return answer(202, object="order", id=str(uuid4()), status="reserved")


def replayed(order: bytes) -> bytes:
    return order.replace(b" 202 ", b" 200 ", 1)


def in_turn(*answers: Answer) -> Script:
    """Give these answers one after the other, and the last one for ever."""
    left = list(answers)

    async def script(_: Request) -> Answer:
        return left.pop(0) if len(left) > 1 else left[0]

    return script


SOLD_OUT = refusal(409, "sold_out")


def selling(units: int) -> Script:
    """A shop that keeps its promises: so many units, and a repeated click is the same order."""
    orders: dict[tuple[str, str | None], bytes] = {}

    async def script(request: Request) -> Answer:
        if request.click in orders:
            return replayed(orders[request.click])
        if len(orders) >= units:
            return SOLD_OUT
        return orders.setdefault(request.click, reserved())

    return script


async def until(condition: Callable[[], bool], *, seconds: float = 10.0) -> None:
    """Wait for a condition, at most so long."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - conditions of all kinds
            await asyncio.sleep(0.01)
