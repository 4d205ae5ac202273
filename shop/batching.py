"""The one batcher: requests that wait at the same time share one round trip, to Redis or to Postgres."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from shop.redis import NotSent, OutcomeUnknown

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Coalescer(Generic[Item, Answer]):
    """Requests that wait at the same time share one round trip.

    `send` gets up to `batch_max` items and returns as many answers, or raises for all of them. At most `in_flight_max`
    batches are under way, and a sender's batches begin at least `pause_seconds` apart. A caller that leaves does not
    disturb its batch.
    """

    def __init__(
        self,
        send: Callable[[list[Item]], Awaitable[Sequence[Answer]]],
        *,
        batch_max: int,
        in_flight_max: int,
        queue_max: int,
        pause_seconds: float = 0.0,
    ) -> None:
        self._send = send
        self._batch_max = batch_max
        self._in_flight_max = in_flight_max
        self._queue_max = queue_max
        self._pause_seconds = pause_seconds
        self._next_at = 0.0
        self._queue: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._senders = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def full(self) -> bool:
        """Whether one more item would exceed the queue's bound."""
        return len(self._queue) >= self._queue_max

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return not self._queue and not self._senders

    @property
    def oldest(self) -> Item | None:
        """The item that waits longest to be sent."""
        return self._queue[0][0] if self._queue else None

    def ask(self, item: Item) -> "asyncio.Future[Answer]":
        """The answer to one item, or whatever `send` raised. Raises NotSent at once when the queue is full."""
        if self.full:
            raise NotSent("the queue is full")
        # Kept, because on Python 3.11 `get_running_loop` is a system call each time.
        loop = self._loop = self._loop or asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._queue.append((item, future))
        if self._senders < self._in_flight_max:
            self._senders += 1
            task = loop.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return future

    async def _run(self) -> None:
        try:
            await self._send_all()
        finally:
            # At once after the queue was found empty: an item that comes later must find a free slot for a sender.
            self._senders -= 1

    async def _pause(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._next_at - loop.time()))
        self._next_at = loop.time() + self._pause_seconds

    async def _send_all(self) -> None:
        while self._queue:
            if self._pause_seconds:
                await self._pause()
            batch = [self._queue.popleft() for _ in range(min(self._batch_max, len(self._queue)))]
            try:
                answers = await self._send([item for item, _ in batch])
            except BaseException as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error if isinstance(error, Exception) else OutcomeUnknown("stopped"))
                        future.exception()
                if not isinstance(error, Exception):
                    raise
            else:
                for (_, future), answer in zip(batch, answers, strict=True):
                    if not future.done():
                        future.set_result(answer)
