"""The faults between the sandbox and who calls its API: requests refused, answers late, answers lost.

They befall the calls of a shop, under /v1, and never a shopper who pays.
"""

import asyncio
from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shop.sandbox.provider import Provider
from shop.sandbox.refusal import Refused, problem_response

BODY_BYTES_MAX = 64 * 1024
CUT = "cut"


class CuttableProtocol(HttpToolsProtocol):
    """A connection that the application can cut, with what `scope["state"]` names `cut`."""

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        state: MutableMapping[str, Any] = self.scope["state"]
        state[CUT] = self.transport.abort


class Trouble:
    """Stands before the application; also bounds what is sent to it."""

    def __init__(self, app: ASGIApp, provider: Provider) -> None:
        self._app = app
        self._provider = provider

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        bounded = _bounded(receive)
        path: str = scope["path"]
        if not path.startswith("/v1/") or path.endswith("/attempts"):
            await self._app(scope, bounded, send)
            return
        dice, stall_seconds = self._provider.dice, self._provider.behaviour.stall_seconds
        if dice.decides("refuse_share"):
            refused = Refused(503, "unavailable", "The sandbox was told to refuse this; nothing was done")
            await problem_response(refused)(scope, receive, send)
        elif dice.decides("drop_reply_share"):
            await self._app(scope, bounded, _into_the_void)
            await _cut(scope["state"][CUT], receive)
        else:
            await self._app(scope, bounded, _late(send, stall_seconds))


def _bounded(receive: Receive) -> Receive:
    left = BODY_BYTES_MAX

    async def bounded() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise HTTPException(413, f"The body is larger than {BODY_BYTES_MAX} bytes")
        return message

    return bounded


def _late(send: Send, seconds: float) -> Send:
    async def late(message: Message) -> None:
        if message["type"] == "http.response.start" and seconds:
            await asyncio.sleep(seconds)
        await send(message)

    return late


async def _into_the_void(_: Message) -> None:
    """Where an answer goes that nobody is to hear."""


async def _cut(cut: Callable[[], None], receive: Receive) -> None:
    cut()
    while (await receive())["type"] != "http.disconnect":
        pass
