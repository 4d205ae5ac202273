"""Delivering: lease a few rows in a short transaction, tell the receiver without one, record what became of it.

At least once: a worker that dies between telling and recording leaves a lease that runs out, and the next one tells it
again under the same id. Each receiver has its own queue and its own task, so that one that does not answer keeps
nobody else waiting.
"""

import asyncio
import random
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog

from shop import metrics
from shop.database import DATABASE_ERRORS, Database
from shop.failure_isolation import Isolation, is_transient
from shop.faults import fault_point
from shop.notifications.addresses import Resolve, resolve
from shop.notifications.delivering import repository
from shop.notifications.delivering.mail import MailChannel
from shop.notifications.delivering.sinks import (
    Channel,
    Gone,
    Leased,
    LogChannel,
    NotDelivered,
    Receiver,
    Stale,
    Undeliverable,
)
from shop.notifications.delivering.webhook import WebhookChannel
from shop.notifications.kinds import Sink
from shop.settings import Settings
from shop.stopping import cancel_and_wait

RETRY_FACTOR = 3
RETRY_JITTER = 0.2
RETRY_EXPONENT_MAX = 12
LEASES_IN_A_ROW_MAX = 1_000
PRUNE_BATCH_MAX = 1_000
PRUNE_BATCHES_MAX = 20

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of one try; no failure means that it was delivered."""

    leased: Leased
    failure: NotDelivered | None


def channels(
    settings: Settings, *, resolve: Resolve = resolve, ssl_context: ssl.SSLContext | None = None
) -> dict[Sink, Channel]:
    """The sinks that the settings turn on. Webhooks always are: whether there is one is told by its row."""
    on: dict[Sink, Channel] = {Sink.WEBHOOK: WebhookChannel(settings, resolve=resolve, ssl_context=ssl_context)}
    if settings.notification_log:
        on[Sink.LOG] = LogChannel()
    if settings.smtp_url is not None:
        on[Sink.MAIL] = MailChannel(settings)
    return on


def retry_pause(settings: Settings, tries: int) -> timedelta:
    """How long to wait after so many tries: longer each time, and not the same for all who failed together."""
    exponent = min(tries - 1, RETRY_EXPONENT_MAX)
    jitter = random.uniform(1 - RETRY_JITTER, 1 + RETRY_JITTER)  # noqa: S311 - no secret
    return timedelta(seconds=settings.delivery_retry_seconds * RETRY_FACTOR**exponent * jitter)


class Deliverer:
    """Delivers what is due, one task a receiver, a few receivers at a time."""

    def __init__(self, database: Database, settings: Settings, on: Mapping[Sink, Channel]) -> None:
        self._database = database
        self._settings = settings
        self._channels = on
        self._slots = asyncio.Semaphore(settings.delivery_receivers_max)
        self._tasks: dict[Receiver, asyncio.Task[None]] = {}
        self._isolation = Isolation("deliveries", settings)

    async def start(self) -> None:
        """Begin with every receiver that something is due for, unless this process is at it already."""
        async with self._database.transaction() as session:
            found = await repository.receivers_with_due(session, self._channels)
        for receiver in found:
            if receiver not in self._tasks:
                task = asyncio.get_running_loop().create_task(self._deliver_to(receiver), name=f"deliver {receiver}")
                self._tasks[receiver] = task

    async def wait(self) -> None:
        """Return when this process has nothing under way."""
        while self._tasks:
            await asyncio.wait(set(self._tasks.values()))

    async def close(self, *, within: float) -> None:
        """Let what is under way finish for so many seconds, then close every connection."""
        await cancel_and_wait(self._tasks.values(), within=within)
        for channel in self._channels.values():
            await channel.close()

    async def _deliver_to(self, receiver: Receiver) -> None:
        """Deliver until nothing is due; whatever fails is left to the lease and to the next start."""
        limit = self._settings.delivery_batch_max
        try:
            for _ in range(LEASES_IN_A_ROW_MAX):
                async with self._slots:
                    leased = await self._lease(receiver, limit)
                    if leased is None:
                        limit = 1  # One of them cannot be read: it is found, and set back.
                        continue
                    await self._tell(receiver, leased)
                if len(leased) < limit:
                    return
        except DATABASE_ERRORS as error:
            log.warning("deliveries_wait", sink=receiver.sink, reason=repr(error)[:200])
        except Exception as error:
            log.error("delivering_failed", sink=receiver.sink, webhook_id=receiver.webhook_id, exc_info=error)
        finally:
            self._tasks.pop(receiver, None)

    async def _lease(self, receiver: Receiver, limit: int) -> Sequence[Leased] | None:
        """Up to `limit` deliveries that are due; None where one of them cannot be read. Alone it is set back."""
        lasting = timedelta(seconds=self._settings.delivery_lease_seconds)
        try:
            async with self._database.transaction() as session:
                return await repository.lease(session, receiver, limit=limit, lasting=lasting)
        except Exception as error:
            if is_transient(error):
                raise
            if limit == 1:
                await self._set_back(receiver, error)
            return None

    async def _set_back(self, receiver: Receiver, error: Exception) -> None:
        async with self._database.transaction() as session:
            delivery_id = await repository.set_back(
                session, receiver, reason=_printable(repr(error)), pause=retry_pause(self._settings, 1)
            )
        self._isolation.failed(delivery_id, error)

    async def _tell(self, receiver: Receiver, leased: Sequence[Leased]) -> None:
        """Tell, and record; where one makes that fail, the others are recorded without it."""
        outcomes = await asyncio.gather(*(self._try(receiver, each) for each in leased))
        fault_point(self._settings, "after_delivery")

        async def record(some: Sequence[Outcome]) -> Sequence[None]:
            await self._record(receiver, some)
            return ()

        await self._isolation.together(outcomes, record, key=lambda each: each.leased.id)

    async def _try(self, receiver: Receiver, leased: Leased) -> Outcome:
        if leased.stale:
            return Outcome(leased, Stale("stale: what it says is not true any more"))
        try:
            await self._channels[receiver.sink].deliver(leased)
        except NotDelivered as failure:
            return Outcome(leased, failure)
        except Exception as error:  # noqa: BLE001 - it is logged and counted, and tried again
            self._isolation.failed(leased.id, error)
            return Outcome(leased, NotDelivered(type(error).__name__))
        return Outcome(leased, None)

    async def _record(self, receiver: Receiver, outcomes: Sequence[Outcome]) -> None:
        settings, dead, stale = self._settings, 0, 0
        delivered = [outcome.leased for outcome in outcomes if outcome.failure is None]
        failed = [(outcome.leased, outcome.failure) for outcome in outcomes if outcome.failure is not None]
        disabled = None
        async with self._database.transaction() as session:
            if receiver.webhook_id is not None and not all(isinstance(each.failure, Stale) for each in outcomes):
                disabled = await repository.record_health(
                    session,
                    receiver.webhook_id,
                    succeeded=bool(delivered),
                    gone=any(isinstance(failure, Gone) for _, failure in failed),
                    patience=timedelta(days=settings.webhook_disable_after_days),
                )
            if delivered:
                await repository.record_delivered(session, delivered)
            for leased, failure in failed:
                given_up = await repository.record_failed(
                    session,
                    leased,
                    reason=_printable(str(failure)),
                    pause=retry_pause(settings, leased.tries),
                    final=isinstance(failure, Undeliverable),
                )
                if isinstance(failure, Stale):
                    stale += given_up
                else:
                    dead += given_up
        tried = [failure for _, failure in failed if not isinstance(failure, Stale)]
        _count(receiver.sink, delivered=len(delivered), failed=len(tried), dead=dead, stale=stale)
        if disabled:
            log.warning("webhook_disabled", webhook_id=receiver.webhook_id, reason=disabled)


async def sweep_deliveries(database: Database, settings: Settings) -> None:
    """Give up what nobody is there for, and delete what is old; bounded, so that one run always ends."""
    keep = timedelta(days=settings.notification_keep_days)
    grace = timedelta(seconds=2 * settings.delivery_lease_seconds)
    for _ in range(PRUNE_BATCHES_MAX):
        async with database.transaction() as session:
            dead = await repository.mark_dead(session, after=grace, limit=PRUNE_BATCH_MAX)
            pruned = await repository.prune(session, older_than=keep, limit=PRUNE_BATCH_MAX)
        for sink in dead:
            _count(sink, dead=1)
        if max(len(dead), pruned) < PRUNE_BATCH_MAX:
            break
    async with database.transaction() as session:
        await repository.forget_deleted_webhooks(session, older_than=2 * keep)


async def watch_deliveries(database: Database, settings: Settings) -> None:
    """Show how old the oldest pending delivery is."""
    async with database.transaction() as session:
        lasting = timedelta(hours=settings.delivery_retry_hours_max)
        metrics.OLDEST_UNDELIVERED.set(await repository.oldest_pending_seconds(session, lasting=lasting))


def _count(sink: str, **outcomes: int) -> None:
    for outcome, count in outcomes.items():
        if count:
            metrics.DELIVERIES.labels(str(sink), outcome).inc(count)


def _printable(reason: str) -> str:
    """What a stranger's server made the library say, as it may stand in a row and on a screen."""
    return reason if reason.isascii() and reason.isprintable() else ascii(reason)
