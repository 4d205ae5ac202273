"""The leanest Python that sells: raw ASGI that keeps no promise but the stock and one unit for each buyer.

The token is checked, purchases that wait share one script call (group commit), and Redis syncs before it answers. It
has no rate limit, idempotency, event, receipt, blocked accounts, metrics, timeout or back-pressure: what the shop costs
beyond this is the price of its other promises.

    uvicorn loadtests.baselines.asgi_best:app --port 8004
"""

import asyncio
import base64
import hmac
import os
import time
from typing import cast

import msgspec
from redis.asyncio.connection import parse_url
from starlette.types import Receive, Scope, Send

SECRET = os.environ.get("SHOP_SECRET_KEY", "a-secret-for-development-only-never-for-production").encode()
REDIS_URL = os.environ.get("SHOP_REDIS_URL", "redis://localhost:6379/0")
PATH = "/v1/seckill/sales/1/orders"
KEYS = ("asgi_best:{1}:stock", "asgi_best:{1}:buyers")
UNITS, GROUP_MAX = 100_000_000, 256
# It answers a letter for each buyer: reserved, over the limit, sold out.
PURCHASES = """
local left = tonumber(redis.call('GET', KEYS[1]) or ARGV[1])
local bought, new, winners, answers = redis.call('HMGET', KEYS[2], unpack(ARGV, 2)), {}, {}, {}
for i, units in ipairs(bought) do
  local buyer = ARGV[i + 1]
  if units or new[buyer] then answers[i] = 'o'
  elseif left < 1 then answers[i] = 's'
  else
    answers[i], new[buyer], left = 'r', true, left - 1
    winners[#winners + 1] = buyer
    winners[#winners + 1] = 1
  end
end
if #winners > 0 then
  redis.call('SET', KEYS[1], left)
  redis.call('HSET', KEYS[2], unpack(winners))
end
return table.concat(answers)
"""
REFUSALS = {"o": b'{"code":"over_limit"}', "s": b'{"code":"sold_out"}'}


class Claims(msgspec.Struct):
    """What is read of a token."""

    sub: str
    exp: float
    iss: str
    aud: str


class Wish(msgspec.Struct):
    """The body of a purchase."""

    quantity: int = 1


claims_of, wish_of = msgspec.json.Decoder(Claims).decode, msgspec.json.Decoder(Wish).decode


class Stock(asyncio.Protocol):
    """One connection to database 0 of Redis. What comes while a call is under way goes with the next one."""

    def __init__(self) -> None:
        self._partial = b""
        self._waiting: list[tuple[str, asyncio.Future[str]]] = []
        self._group: list[tuple[str, asyncio.Future[str]]] = []
        self._scheduled = False
        self._transport: asyncio.Transport
        self._sha: asyncio.Future[str]

    async def start(self) -> None:
        """Connect and load the script."""
        loop, options = asyncio.get_running_loop(), parse_url(REDIS_URL)
        self._sha = loop.create_future()
        if "path" in options:
            await loop.create_unix_connection(lambda: self, options["path"])
        else:
            await loop.create_connection(lambda: self, options["host"], options.get("port", 6379))
        await self._sha

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send("SCRIPT", "LOAD", PURCHASES)

    def buy(self, buyer: str) -> asyncio.Future[str]:
        """The letter for this buyer, once Redis has it on disk."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str] = loop.create_future()
        self._waiting.append((buyer, answer))
        if not (self._group or self._scheduled):
            self._scheduled = True
            loop.call_soon(self._call)
        return answer

    def _call(self) -> None:
        self._scheduled = False
        self._group, self._waiting = self._waiting[:GROUP_MAX], self._waiting[GROUP_MAX:]
        buyers = [buyer for buyer, _ in self._group]
        self._send("EVALSHA", self._sha.result(), len(KEYS), *KEYS, UNITS, *buyers)

    def _send(self, *command: str | int) -> None:
        words = [str(word).encode() for word in command]
        self._transport.write(
            b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(each), each) for each in words)
        )

    def data_received(self, data: bytes) -> None:
        self._partial += data
        head, end, rest = self._partial.partition(b"\r\n")
        if head.startswith(b"-"):
            raise RuntimeError(head.decode())
        # Every reply is one bulk string, and only one is under way.
        if not end or len(rest) < int(head[1:]) + 2:
            return
        self._partial = b""
        self._replied(rest[:-2].decode())

    def _replied(self, reply: str) -> None:
        if not self._sha.done():
            self._sha.set_result(reply)
            return
        for (_, answer), letter in zip(self._group, reply, strict=True):
            if not answer.done():
                answer.set_result(letter)
        self._group = []
        if self._waiting:
            self._call()


stock = Stock()


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Sell a unit to whoever has a token."""
    if scope["type"] == "lifespan":
        await receive()
        await stock.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] != PATH or scope["method"] != "POST":
        await answer(send, 404, b'{"code":"not_found"}')
    elif (buyer := buyer_of(scope["headers"])) is None:
        await answer(send, 401, b'{"code":"unauthorized"}')
    elif wish_of(await body_of(receive)).quantity != 1:
        await answer(send, 409, REFUSALS["o"])
    elif (letter := await stock.buy(buyer)) == "r":
        # A buyer has one order, so their id names it.
        await answer(send, 202, b'{"id":"%b","quantity":1,"status":"reserved"}' % buyer.encode())
    else:
        await answer(send, 409, REFUSALS[letter])


def buyer_of(headers: list[tuple[bytes, bytes]]) -> str | None:
    """Whose token the request has; None if it has no good one."""
    token = next((value[7:] for name, value in headers if name == b"authorization"), b"")
    signed, _, signature = token.rpartition(b".")
    expected = base64.urlsafe_b64encode(hmac.digest(SECRET, signed, "sha256")).rstrip(b"=")
    if not hmac.compare_digest(expected, signature):
        return None
    claims = claims_of(base64.urlsafe_b64decode(signed.partition(b".")[2] + b"=="))
    return claims.sub if claims.iss == claims.aud == "shop" and claims.exp > time.time() else None


async def body_of(receive: Receive) -> bytes:
    """The whole body."""
    message = await receive()
    body: bytes = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    return body


async def answer(send: Send, status: int, body: bytes) -> None:
    """Send an answer with its length."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
