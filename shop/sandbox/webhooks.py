"""The webhooks of the sandbox: each event is posted, signed, until it is accepted or has been tried often enough.

The books say what is due, so that a sandbox that is started again goes on where it was.
"""

import asyncio
import random
import time
from contextlib import suppress
from datetime import UTC, datetime

import httpx
import msgspec
import structlog
from standardwebhooks import Webhook

from shop.sandbox.provider import Provider
from shop.sandbox.records import Delivery

UNDER_WAY_MAX = 16
TIMEOUT_SECONDS = 5.0
RETRY_SECONDS_MIN, RETRY_SECONDS_MAX = 0.2, 5.0
TRIES_MAX = 20  # About a minute and a half; whoever was away for longer reads the list of events.

log = structlog.get_logger(__name__)


class Webhooks:
    """Sends what is due while `run` runs."""

    def __init__(self, provider: Provider, *, secret: str) -> None:
        self._provider = provider
        self._webhook = Webhook(secret)
        self._news = asyncio.Event()
        self._under_way: set[int] = set()
        provider.tell = self._news.set

    async def run(self) -> None:
        """Send, until it is cancelled."""
        limits = httpx.Limits(max_connections=UNDER_WAY_MAX, max_keepalive_connections=UNDER_WAY_MAX)
        async with (
            httpx.AsyncClient(timeout=TIMEOUT_SECONDS, limits=limits, trust_env=False) as client,
            asyncio.TaskGroup() as group,
        ):
            while True:
                self._news.clear()
                for delivery in self._provider.books.due(_now_ms(), UNDER_WAY_MAX):
                    if delivery.event.seq not in self._under_way and len(self._under_way) < UNDER_WAY_MAX:
                        self._under_way.add(delivery.event.seq)
                        group.create_task(self._deliver(client, delivery))
                await self._until_due()

    async def _until_due(self) -> None:
        """Return when something has happened, or when the next webhook is due."""
        now_ms = _now_ms()
        next_ms = self._provider.books.next_due_ms(now_ms)
        with suppress(TimeoutError):
            async with asyncio.timeout(None if next_ms is None else (next_ms - now_ms) / 1_000):
                await self._news.wait()

    async def _deliver(self, client: httpx.AsyncClient, delivery: Delivery) -> None:
        try:
            accepted = await self._post(client, delivery)
            books = self._provider.books
            with books.transaction():
                if accepted:
                    books.mark_sent(delivery, now_ms=_now_ms())
                else:
                    books.mark_failed(delivery, due_ms=_next_try_ms(delivery.tries))
        finally:
            self._under_way.discard(delivery.event.seq)
            self._news.set()

    async def _post(self, client: httpx.AsyncClient, delivery: Delivery) -> bool:
        """Whether it was accepted: answered with 2xx in time."""
        event = delivery.event
        body = msgspec.json.encode(event)
        now = datetime.now(UTC)
        headers = {
            "Content-Type": "application/json",
            "webhook-id": event.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._webhook.sign(event.id, now, body.decode()),
        }
        try:
            async with (
                asyncio.timeout(TIMEOUT_SECONDS),
                client.stream("POST", self._provider.webhook_url or "", content=body, headers=headers) as answer,
            ):
                return answer.is_success
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            log.info("webhook_failed", id=event.id, tries=delivery.tries, reason=repr(error)[:200])
            return False


def _next_try_ms(tries: int) -> int | None:
    """When to try again after so many tries and one more in vain, or None to give up."""
    if tries + 1 >= TRIES_MAX:
        return None
    pause = min(RETRY_SECONDS_MIN * 2**tries, RETRY_SECONDS_MAX) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
    return _now_ms() + int(pause * 1_000)


def _now_ms() -> int:
    return int(time.time() * 1_000)
