"""The shop's end of the payment provider: what may be asked of it, and what it may answer.

Every call is bounded in time, tries, connections and bytes, and is done once however often it is tried. No transaction
may be held across one.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from typing import Annotated, Literal, Protocol, TypeVar
from urllib.parse import quote
from uuid import UUID

import httpx
import msgspec
import structlog
from msgspec import Meta

from shop import metrics
from shop.errors import ProviderUnavailable
from shop.payments.breaker import Breaker, BreakerOpen
from shop.settings import Settings

ANSWER_BYTES_MAX = 4 * 1024 * 1024
KEEP_ALIVE_SECONDS = 4.0  # Below the five seconds after which many a server closes an idle connection.
RETRY_SECONDS_MIN, RETRY_SECONDS_MAX = 0.05, 1.0
RETRIED_STATUSES = frozenset({408, 425, 429})
REFUNDS_MAX = 1_000

Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Text = Annotated[str, Meta(max_length=128)]
Minor = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Time = Annotated[datetime, Meta(tz=True)]
Answer = TypeVar("Answer")

log = structlog.get_logger(__name__)


class ProviderRefund(msgspec.Struct, frozen=True):
    """Money that goes back; `key` is the one it was asked for with."""

    id: Id
    key: Text
    amount_minor: Minor


class Intent(msgspec.Struct, frozen=True):
    """A payment at the provider, as it was at one moment."""

    id: Id
    order_id: Text
    amount_minor: Minor
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}$")]
    status: Literal["open", "captured", "cancelled"]
    captured_minor: Minor
    refunded_minor: Minor
    refunds: Annotated[tuple[ProviderRefund, ...], Meta(max_length=REFUNDS_MAX)]
    attempts: Count
    pay_url: Annotated[str, Meta(max_length=2_000, pattern=r"^https?://[^\s]+$")]
    created_at: Time


class ProviderEvent(msgspec.Struct, frozen=True):
    """What happened to an intent, as a webhook or the list tells it; its `type` may be new to us."""

    id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
    seq: Count
    type: Annotated[str, Meta(min_length=1, max_length=64)]
    created_at: Time
    data: Intent


class _Events(msgspec.Struct, frozen=True):
    data: list[ProviderEvent]


class _Problem(msgspec.Struct, frozen=True):
    code: Text = "unknown"


class ProviderRefused(Exception):
    """The provider answered that it will not do this: a status of 4xx and its code. To ask again does not help."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"the payment provider refused: {status} {code}")
        self.status = status
        self.code = code


class Gateway(Protocol):
    """What the shop asks of a payment provider.

    Every call raises ProviderUnavailable when no answer came in time, and then it may have been done: ask again, with
    the same arguments. It raises ProviderRefused when the provider says no.
    """

    async def create(self, *, order_id: UUID, amount_minor: int, currency: str) -> Intent:
        """The one intent of this order, made by the first call and found by the others."""

    async def read(self, intent_id: str) -> Intent:
        """The intent as it is now."""

    async def cancel(self, intent_id: str) -> Intent:
        """See that it can no longer be paid. Refused with 409 `already_captured` when it was paid before."""

    async def refund(self, intent_id: str, *, key: str, amount_minor: int) -> ProviderRefund:
        """Give money back, once for each key."""

    async def events(self, *, after: int, limit: int) -> list[ProviderEvent]:
        """The events with a `seq` above `after`, oldest first, at most `limit`."""

    async def close(self) -> None:
        """Give the connections up."""


class _Failed(Exception):
    """The provider failed: a status of 5xx, or an answer that cannot be read. It may work the next time."""


class _Busy(Exception):
    """The provider works, and asks us to come back later."""


# What says that the provider is not well, as opposed to what says that we are not.
FAILURES = (httpx.TransportError, TimeoutError, _Failed)


class HttpGateway:
    """The provider over HTTP, with a pool of connections and a breaker of its own: one for a process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._slots = asyncio.Semaphore(settings.payment_connections_max)
        self._breaker = Breaker(
            failures_max=settings.payment_breaker_failures,
            rest_seconds=settings.payment_breaker_rest_seconds,
            tell=_tell_breaker,
        )
        connections = settings.payment_connections_max
        self._client = httpx.AsyncClient(
            base_url=settings.payment_provider_url,
            headers={
                "Authorization": f"Bearer {settings.payment_api_key.get_secret_value()}",
                "Accept-Encoding": "identity",
            },
            limits=httpx.Limits(
                max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=KEEP_ALIVE_SECONDS
            ),
            timeout=settings.payment_timeout_seconds,
            follow_redirects=False,
            trust_env=False,  # The settings alone say where the money is.
        )

    async def create(self, *, order_id: UUID, amount_minor: int, currency: str) -> Intent:
        """See `Gateway`. Refused with 422 `idempotency_mismatch` for another amount or currency than before."""
        body = {"order_id": str(order_id), "amount_minor": amount_minor, "currency": currency}
        return await self._call("create", Intent, "POST", "/v1/intents", body=body, key=str(order_id))

    async def read(self, intent_id: str) -> Intent:
        """See `Gateway`. Refused with 404 `not_found`."""
        return await self._call("read", Intent, "GET", _path(intent_id))

    async def cancel(self, intent_id: str) -> Intent:
        """See `Gateway`."""
        return await self._call("cancel", Intent, "POST", _path(intent_id, "cancel"))

    async def refund(self, intent_id: str, *, key: str, amount_minor: int) -> ProviderRefund:
        """See `Gateway`. Refused with 409 `not_captured`, or 422 `refund_too_large`."""
        body = {"amount_minor": amount_minor}
        return await self._call("refund", ProviderRefund, "POST", _path(intent_id, "refunds"), body=body, key=key)

    async def events(self, *, after: int, limit: int) -> list[ProviderEvent]:
        """See `Gateway`."""
        found = (await self._call("events", _Events, "GET", f"/v1/events?after={after}&limit={limit}")).data
        numbers = [after, *(event.seq for event in found)]
        if len(found) > limit or any(later <= earlier for earlier, later in pairwise(numbers)):
            log.error("provider_events_disordered", after=after, limit=limit, numbers=numbers[:10])
            raise ProviderUnavailable("The provider's events are not in order")
        return found

    async def close(self) -> None:
        """See `Gateway`."""
        await self._client.aclose()

    async def _call(
        self, operation: str, kind: type[Answer], method: str, path: str, *, body: object = None, key: str | None = None
    ) -> Answer:
        headers = {} if key is None else {"Idempotency-Key": key}
        content = None
        if body is not None:
            headers["Content-Type"], content = "application/json", msgspec.json.encode(body)

        async def ask() -> Answer:
            # A new request each time: one that was sent cannot be sent again.
            return await self._ask(self._client.build_request(method, path, content=content, headers=headers), kind)

        outcome = "abandoned"
        try:
            with metrics.PROVIDER_SECONDS.labels(operation).time():
                answer = await self._try(operation, ask)
            outcome = "answered"
        except ProviderRefused:
            outcome = "refused"
            raise
        except ProviderUnavailable:
            outcome = "unavailable"
            raise
        finally:
            metrics.PROVIDER_CALLS.labels(operation, outcome).inc()
        return answer

    async def _try(self, operation: str, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """The answer of the first try that has one, within the deadline."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.payment_deadline_seconds
        failure: Exception | None = None
        for attempt in range(self._settings.payment_tries_max):
            if attempt:
                pause = min(RETRY_SECONDS_MIN * 2**attempt, RETRY_SECONDS_MAX) * random.uniform(0.5, 1.0)  # noqa: S311
                if loop.time() + pause >= deadline:
                    break
                await asyncio.sleep(pause)
            try:
                return await self._try_once(ask, deadline)
            except BreakerOpen as error:
                raise ProviderUnavailable(retry_after=error.rest_seconds) from error
            except (*FAILURES, _Busy) as error:
                failure = error
                log.warning("provider_failed", operation=operation, attempt=attempt + 1, reason=repr(error)[:200])
        raise ProviderUnavailable from failure

    async def _try_once(self, ask: Callable[[], Awaitable[Answer]], deadline: float) -> Answer:
        # To wait for one of our own connections, or to have little time left after it, is no failure of the provider.
        async with asyncio.timeout_at(deadline), self._slots:
            with self._breaker.asked(*FAILURES):
                async with asyncio.timeout(self._settings.payment_timeout_seconds):
                    return await ask()

    async def _ask(self, request: httpx.Request, kind: type[Answer]) -> Answer:
        response = await self._client.send(request, stream=True)
        try:
            content = await _content(response)
        finally:
            await response.aclose()
        status = response.status_code
        if response.is_success:
            return _decode(content, kind)
        if status in RETRIED_STATUSES:
            raise _Busy(f"status {status}")
        if response.is_client_error:
            raise ProviderRefused(status, _code(content))
        raise _Failed(f"status {status}")


async def _content(response: httpx.Response) -> bytes:
    """The body as it was sent: nothing is unpacked, so that it is not larger than it looks."""
    content = bytearray()
    async for part in response.aiter_raw():
        content += part
        if len(content) > ANSWER_BYTES_MAX:
            raise _Failed(f"an answer of more than {ANSWER_BYTES_MAX} bytes")
    return bytes(content)


def _decode(content: bytes, kind: type[Answer]) -> Answer:
    try:
        return msgspec.json.decode(content, type=kind)
    except (ValueError, RecursionError) as error:
        raise _Failed(f"an answer that is not understood: {error}") from error


def _code(content: bytes) -> str:
    with suppress(ValueError, RecursionError):
        return msgspec.json.decode(content, type=_Problem).code
    return "unknown"


def _path(intent_id: str, *more: str) -> str:
    return "/".join(("/v1/intents", quote(intent_id, safe=""), *more))


def _tell_breaker(is_open: bool) -> None:
    metrics.PROVIDER_BREAKER.set(is_open)
    log.warning("provider_breaker", open=is_open)
