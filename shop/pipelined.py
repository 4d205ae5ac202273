"""One kept connection to Redis for the script calls that purchases wait for.

A pool lends a connection for each call, looks whether it lives, and sets several timers. Here a call is one write and
its answer one wake-up: calls are pipelined and answered in their order, and one timer watches the oldest of them.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import hiredis
import redis.asyncio as aioredis
from redis import exceptions
from redis.asyncio.connection import AbstractConnection

from shop.redis import CONNECTION_ERRORS, REDIS_ERRORS, NotSent, OutcomeUnknown, outcome_of, packed_call


class PipelinedConnection(asyncio.Protocol):
    """A connection of its own to the server of a client; it connects with the first call, and again after a loss.

    A call that is not answered in time takes the connection along: what became of those behind it, nobody knows.
    """

    def __init__(self, client: aioredis.Redis) -> None:
        self.client = client
        self._connection: AbstractConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader()
        # What is unanswered, the oldest first, each with the time at which it is too late.
        self._unanswered: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def call_script(
        self, name: str, keys: Sequence[str | bytes], arguments: Sequence[str | bytes | int], *, timeout: float
    ) -> Any:
        """See `shop.redis.call_script`."""
        loop = asyncio.get_running_loop()
        # Asked again after each wait: it may be lost by then, and what is noted as asked must have been written to it.
        while (transport := self._transport) is None:
            await self._connected(loop)
        answer: asyncio.Future[Any] = loop.create_future()
        due = loop.time() + timeout
        self._unanswered.append((due, answer))
        if self._timer is None:
            self._timer = loop.call_at(due, self._cut_if_late, loop)
        transport.write(packed_call(name, keys, arguments))
        return await answer

    def close(self) -> None:
        """End the connection. Of those who wait, the outcome is unknown."""
        self._lose("closed")

    async def _connected(self, loop: asyncio.AbstractEventLoop) -> None:
        """Return when it is connected, once for all who ask meanwhile. Raises NotSent."""
        if self._connecting is None:
            self._connecting = loop.create_task(self._connect())
        await asyncio.shield(self._connecting)

    async def _connect(self) -> None:
        connection = self.client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()
        except (*CONNECTION_ERRORS, exceptions.ResponseError, RuntimeError) as error:
            raise NotSent(str(error)) from error
        finally:
            self._connecting = None
        # It is greeted by the library; from here on it is ours.
        transport: asyncio.Transport = connection._writer.transport  # noqa: SLF001
        transport.set_protocol(self)
        self._reader = hiredis.Reader(replyError=connection._parser.parse_error)  # noqa: SLF001
        self._connection, self._transport = connection, transport

    # What the transport calls.

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if not self._unanswered:
                self._lose("an answer to nothing")
                return
            answer = self._unanswered.popleft()[1]
            if answer.done():
                continue  # Whoever asked has left.
            if not isinstance(reply, REDIS_ERRORS):
                answer.set_result(reply)
                continue
            answer.set_exception(outcome_of(reply))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None and self._transport.is_closing():  # Else it is the one before.
            self._lose("the connection was lost")

    def _cut_if_late(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the connection if the oldest call waits for too long; else look again when it would."""
        self._timer = None
        if not self._unanswered:
            return
        due = self._unanswered[0][0]
        if due <= loop.time():
            self._lose("no answer in time")
        else:
            self._timer = loop.call_at(due, self._cut_if_late, loop)

    def _lose(self, reason: str) -> None:
        transport, connection, self._transport, self._connection = self._transport, self._connection, None, None
        unanswered, self._unanswered = self._unanswered, deque()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if transport is not None and connection is not None:
            transport.abort()
            connection._writer = None  # noqa: SLF001 - else it warns that nobody has closed it
        for _, answer in unanswered:
            if not answer.done():
                answer.set_exception(OutcomeUnknown(reason))
