"""The one batcher: requests that wait at the same time share one round trip, to Redis or to Postgres."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Generic, NamedTuple, TypeVar

import structlog

from shop import metrics
from shop.redis import NotSent, OutcomeUnknown

Item = TypeVar("Item")
Answer = TypeVar("Answer")

log = structlog.get_logger(__name__)


class Failed(NamedTuple):
    """What is told in place of an answer: the error of the whole batch."""

    error: Exception


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
        self._queue: deque[tuple[Item, Callable[[Answer | Failed], None]]] = deque()
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
        future: asyncio.Future[Answer] = self._running_loop().create_future()
        self.put(item, partial(_settle, future))
        return future

    def put(self, item: Item, tell: Callable[[Answer | Failed], None]) -> None:
        """Ask, and `tell` the answer or that `send` has failed, once. Raises NotSent at once when the queue is full."""
        if self.full:
            raise NotSent("the queue is full")
        self._queue.append((item, tell))
        if self._senders < self._in_flight_max:
            self._senders += 1
            task = self._running_loop().create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        # Kept, because on Python 3.11 `get_running_loop` is a system call each time.
        loop = self._loop = self._loop or asyncio.get_running_loop()
        return loop

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
                told = Failed(error if isinstance(error, Exception) else OutcomeUnknown("stopped"))
                _tell_all((tell, told) for _, tell in batch)
                if not isinstance(error, Exception):
                    raise
            else:
                # Not at once: what has queued up meanwhile is sent before the answers are put to use.
                told_of = zip((tell for _, tell in batch), answers, strict=True)
                self._running_loop().call_soon(_tell_all, told_of)


def _tell_all(answers: Iterable[tuple[Callable[[Answer | Failed], None], Answer | Failed]]) -> None:
    """Tell each their answer. An error that nobody foresaw is of this one alone."""
    for tell, answer in answers:
        try:
            tell(answer)
        except Exception as error:
            metrics.ITEM_FAILURES.labels("batches").inc()
            log.error("answer_not_taken", exc_info=error)


def _settle(future: "asyncio.Future[Answer]", answer: Answer | Failed) -> None:
    if future.done():
        return
    if isinstance(answer, Failed):
        future.set_exception(answer.error)
        future.exception()  # Whoever has left does not want it, and nobody is to be warned of that.
    else:
        future.set_result(answer)
