"""Reads the states of orders for all who ask in the same few milliseconds: one statement, or two, however many ask.

What a poll shows was read in Postgres after the poll came. So a poll never shows less than what was acknowledged before
it, in whichever process and whatever news were lost; memory only spares the bytes.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog

from shop.batching import Coalescer
from shop.errors import OrderNotFound
from shop.order_states.polling import Found, Poll
from shop.order_states.recorded import RecordedReader
from shop.order_states.unrecorded import UnrecordedReader
from shop.seckill.polls import Polls
from shop.steps import stepwise

POLLS_PER_READ_MAX, READS_IN_FLIGHT_MAX, QUEUE_MAX = 256, 1, 10_000
# Reads begin so far apart: a poll can wait that long for others, and at a thousand a second costs half as much.
PAUSE_SECONDS = 0.004
# Reads that nobody waits for any more. While there are so many, Postgres hangs, and no other is begun.
LATE_READS_MAX = 2

log = structlog.get_logger(__name__)

Later = asyncio.Future[Found]
Read = Callable[[Sequence[Poll]], Coroutine[Any, Any, list[Found]]]


class StateReader:
    """Reads for the polls of one process. What that costs is told to `polls`, which spreads them out accordingly."""

    def __init__(
        self, recorded: RecordedReader, unrecorded: UnrecordedReader, polls: Polls, *, seconds_max: float
    ) -> None:
        """Nobody waits longer than `seconds_max` for Postgres and the ledger."""
        self._recorded = recorded
        self._unrecorded = unrecorded
        self._polls = polls
        self._seconds_max = seconds_max
        self._cpu_seconds = 0.0
        self._late: set[asyncio.Future[list[Found]]] = set()
        self._follow_ups: set[asyncio.Task[None]] = set()
        self._coalescer: Coalescer[Poll, Found | Later] = Coalescer(
            self._answer,
            batch_max=POLLS_PER_READ_MAX,
            in_flight_max=READS_IN_FLIGHT_MAX,
            queue_max=QUEUE_MAX,
            pause_seconds=PAUSE_SECONDS,
        )

    def ask(self, poll: Poll) -> asyncio.Future[Found | Later]:
        """What a poll is told; of an order without a row, a future that brings it. Raises NotSent when too many wait.

        The future raises one of `SERVER_ERRORS` when Postgres does not answer in time.
        """
        return self._coalescer.ask(poll)

    async def _answer(self, polls: Sequence[Poll]) -> Sequence[Found | Later]:
        found: list[Found | Later] = [*await self._in_time(polls, self._recorded.read)]
        self._polls.measured(self._cpu_seconds, polls=len(polls))
        self._cpu_seconds = 0.0
        unrecorded = [place for place, each in enumerate(found) if each is None]
        if unrecorded:
            # Those of the batch who have their answer do not wait for the ledger.
            loop = asyncio.get_running_loop()
            waiting: list[tuple[Poll, Later]] = [(polls[place], loop.create_future()) for place in unrecorded]
            for place, (_, later) in zip(unrecorded, waiting, strict=True):
                found[place] = later
            task = loop.create_task(self._follow_up(waiting))
            self._follow_ups.add(task)
            task.add_done_callback(self._follow_ups.discard)
        return found

    async def _follow_up(self, waiting: Sequence[tuple[Poll, Later]]) -> None:
        found: list[Found]
        try:
            found = await self._in_time([poll for poll, _ in waiting], self._read_unrecorded)
        except Exception as error:  # noqa: BLE001 - told to each of them
            found = [error] * len(waiting)
        for (_, later), each in zip(waiting, found, strict=True):
            if not later.done():
                later.set_result(each)

    async def _read_unrecorded(self, polls: Sequence[Poll]) -> list[Found]:
        found = await self._unrecorded.read(polls)
        absent = [place for place, each in enumerate(found) if each is None]
        if absent:
            # It may have been recorded, and its ledger dropped, since Postgres was asked.
            again = await self._recorded.read([polls[place] for place in absent])
            for place, each in zip(absent, again, strict=True):
                found[place] = each or OrderNotFound()
        return found

    async def _in_time(self, polls: Sequence[Poll], read: Read) -> list[Found]:
        """What `read` says, in the time that is left to the one who waits longest. Raises TimeoutError.

        A read that takes longer goes on until its server gives up, or is there again, and few of them do so at once.
        """
        left = polls[0].asked_at + self._seconds_max - time.monotonic()
        if left <= 0 or len(self._late) >= LATE_READS_MAX:
            raise TimeoutError
        took: list[float] = []
        reading = asyncio.ensure_future(stepwise(read(polls), clock=time.thread_time, spent=took.append))
        await asyncio.wait({reading}, timeout=left)
        self._cpu_seconds += sum(took)
        if not reading.done():
            self._late.add(reading)
            reading.add_done_callback(self._ended)
            log.warning("order_states_late", polls=len(polls))
            raise TimeoutError
        return reading.result()

    def _ended(self, reading: asyncio.Future[list[Found]]) -> None:
        self._late.discard(reading)
        if not reading.cancelled():
            reading.exception()
