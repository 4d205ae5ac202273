"""Concurrent purchases of one process and sale share one script call, and so one fsync."""

import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from shop import metrics
from shop.batching import Coalescer, Failed
from shop.ledger import client as ledger
from shop.ledger.client import Answer, LastOrder, LoadedSale, RedisClock, ReserveRequest
from shop.pipelined import PipelinedConnection
from shop.seckill.latch import Latch
from shop.settings import Settings

DROPPED = Answer("DROPPED")


class _Waiting(msgspec.Struct, frozen=True, gc=False):
    request: ReserveRequest
    queued_at: float


class GroupCommit:
    """The way of one process to the ledger of one (sale, epoch).

    It remembers the last order that it saw reserved, and shows it with each batch: a ledger without that order was
    rolled back, and answers BEHIND. It keeps what it saw reserved until it learns that Postgres has recorded it, so
    that a recovery can ask for it.
    """

    def __init__(
        self,
        connection: PipelinedConnection,
        sale: LoadedSale,
        *,
        last: LastOrder,
        clock: RedisClock,
        settings: Settings,
    ) -> None:
        self.sale = sale
        self.latch = Latch(connection.client, sale)
        self._connection = connection
        self._last = last
        self._watermark = 0
        self._unpersisted: deque[tuple[ReserveRequest, Answer]] = deque(maxlen=settings.backlog_max)
        self._clock = clock
        self._timeout = settings.redis_timeout_seconds
        self._queue_seconds_max = max(settings.purchase_deadline_seconds - settings.redis_timeout_seconds, 0.05)
        self._coalescer: Coalescer[_Waiting, Answer] = Coalescer(
            self._send,
            batch_max=settings.batch_max,
            in_flight_max=settings.batches_in_flight_max,
            queue_max=settings.queue_max,
        )

    def reserve(self, request: ReserveRequest) -> Awaitable[Answer]:
        """The ledger's answer; DROPPED when the request waited too long. Raises NotSent, or OutcomeUnknown."""
        return self._coalescer.ask(_Waiting(request, time.monotonic()))

    def submit(self, request: ReserveRequest, tell: Callable[[Answer | Failed], None]) -> None:
        """The same without a future: `tell` gets the answer, or what failed. Raises NotSent at once."""
        self._coalescer.put(_Waiting(request, time.monotonic()), tell)

    @property
    def queued_seconds(self) -> float:
        """How long the oldest purchase waits that was not sent yet."""
        oldest = self._coalescer.oldest
        return 0.0 if oldest is None else time.monotonic() - oldest.queued_at

    async def _send(self, batch: list[_Waiting]) -> Sequence[Answer]:
        oldest = time.monotonic() - self._queue_seconds_max
        fresh = [waiting.request for waiting in batch if waiting.queued_at >= oldest]
        if not fresh:
            return [DROPPED] * len(batch)
        metrics.BATCH_REQUESTS.observe(len(fresh))
        answers = await ledger.reserve(
            self._connection, self.sale, fresh, clock=self._clock, last=self._last, timeout=self._timeout
        )
        self._remember(fresh, answers)
        if len(fresh) == len(batch):
            return answers
        of_fresh = iter(answers)
        return [next(of_fresh) if waiting.queued_at >= oldest else DROPPED for waiting in batch]

    def _remember(self, requests: Sequence[ReserveRequest], answers: Sequence[Answer]) -> None:
        for request, answer in zip(requests, answers, strict=True):
            if answer.word == "RESERVED":
                self._unpersisted.append((request, answer))
                if answer.seq > self._last.seq:
                    self._last = LastOrder(request.order_id, answer.seq)
            elif answer.word == "REPLAYED" and answer.seq > self._watermark and answer.fields[-1] == "held":
                self._unpersisted.append((request, answer))

    @property
    def idle(self) -> bool:
        """Whether no answer of the ledger is still to come."""
        return self._coalescer.idle

    @property
    def highest_seq(self) -> int:
        """The highest sequence number at which this process saw an order reserved."""
        return self._last.seq

    @property
    def unpersisted(self) -> Sequence[tuple[ReserveRequest, Answer]]:
        """The reservations of this process that Postgres may not have recorded."""
        return tuple(self._unpersisted)

    def forget(self, watermark: int) -> None:
        """Postgres has recorded everything up to here."""
        self._watermark = watermark
        # Batches are answered in almost the order of their numbers; what stands behind a higher one waits for it.
        while self._unpersisted and self._unpersisted[0][1].seq <= watermark:
            self._unpersisted.popleft()

    def reported(self, number: int) -> None:
        """The first `number` unpersisted reservations are recorded for the recovery."""
        for _ in range(min(number, len(self._unpersisted))):
            self._unpersisted.popleft()
