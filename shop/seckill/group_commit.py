"""Concurrent purchases of one process and sale share one script call, and so one fsync."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import redis.asyncio as aioredis

from shop import metrics
from shop.redis import Coalescer
from shop.seckill import ledger
from shop.seckill.ledger import Answer, LastOrder, LoadedSale, RedisClock, ReserveRequest
from shop.settings import Settings

DROPPED = Answer("DROPPED")


class _Waiting(NamedTuple):
    request: ReserveRequest
    queued_at: float


class GroupCommit:
    """The way of one process to the ledger of one (sale, epoch).

    It remembers the last order that it saw reserved, and shows it with each batch: a ledger without that order was
    rolled back, and answers BEHIND.
    """

    def __init__(
        self, client: aioredis.Redis, sale: LoadedSale, *, last: LastOrder, clock: RedisClock, settings: Settings
    ) -> None:
        self.sale = sale
        self._client = client
        self._last = last
        self._clock = clock
        self._timeout = settings.redis_timeout_seconds
        self._queue_seconds_max = max(settings.purchase_deadline_seconds - settings.redis_timeout_seconds, 0.05)
        self._coalescer: Coalescer[_Waiting, Answer] = Coalescer(
            self._send,
            batch_max=settings.batch_max,
            in_flight_max=settings.batches_in_flight_max,
            queue_max=settings.queue_max,
        )

    async def reserve(self, request: ReserveRequest) -> Answer:
        """The ledger's answer; DROPPED when the request waited too long to be sent.

        Raises NotSent, ScriptsNotLoaded or OutcomeUnknown.
        """
        return await self._coalescer.ask(_Waiting(request, time.monotonic()))

    async def _send(self, batch: list[_Waiting]) -> Sequence[Answer]:
        oldest = time.monotonic() - self._queue_seconds_max
        fresh = [waiting.request for waiting in batch if waiting.queued_at >= oldest]
        if not fresh:
            return [DROPPED] * len(batch)
        metrics.BATCH_REQUESTS.observe(len(fresh))
        answers = await ledger.reserve(
            self._client, self.sale, fresh, clock=self._clock, last=self._last, timeout=self._timeout
        )
        self._remember(fresh, answers)
        if len(fresh) == len(batch):
            return answers
        remaining = iter(answers)
        return [next(remaining) if waiting.queued_at >= oldest else DROPPED for waiting in batch]

    def _remember(self, requests: Sequence[ReserveRequest], answers: Sequence[Answer]) -> None:
        for request, answer in zip(requests, answers, strict=True):
            if answer.word == "RESERVED" and answer.seq > self._last.seq:
                self._last = LastOrder(request.order_id, answer.seq)
