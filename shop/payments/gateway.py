"""The shop's end of the payment provider: what may be asked of it, and what it may answer.

Every call is bounded in time, tries, connections and bytes, and is done once however often it is tried. No transaction
may be held across one.
"""

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import lru_cache
from itertools import pairwise
from typing import Protocol, TypeVar
from urllib.parse import quote
from uuid import UUID

import httpx
import msgspec
import structlog

from shop import metrics
from shop.breaker import Breaker, CircuitOpen
from shop.errors import ProviderUnavailable
from shop.payments.contract import (
    Intent,
    ProviderEvent,
    ProviderRefund,
    Text,
    UnreadableEvent,
    read_events,
    read_intent,
    read_refund,
)
from shop.settings import Settings

ANSWER_BYTES_MAX = 4 * 1024 * 1024
KEEP_ALIVE_SECONDS = 4.0  # Below the five seconds after which many a server closes an idle connection.
RETRY_SECONDS_MIN, RETRY_SECONDS_MAX = 0.05, 1.0
RETRIED_STATUSES = frozenset({408, 425, 429})

Answer = TypeVar("Answer")

log = structlog.get_logger(__name__)


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

    async def create(
        self, *, order_id: UUID, amount_minor: int, currency: str, attempt: int = 1, return_url: str | None = None
    ) -> Intent:
        """The one intent of this attempt to pay the order, made by the first call and found by the others."""

    async def read(self, intent_id: str) -> Intent:
        """The intent as it is now."""

    async def cancel(self, intent_id: str) -> Intent:
        """See that it can no longer be paid. Refused with 409 `already_captured` when it was paid before."""

    async def refund(self, intent_id: str, *, key: str, amount_minor: int) -> ProviderRefund:
        """Give money back, once for each key."""

    async def events(self, *, after: int, limit: int) -> list[ProviderEvent | UnreadableEvent]:
        """The events with a `seq` above `after`, oldest first, at most `limit`. One that breaks the contract is told as
        such, and hides no other.
        """

    async def close(self) -> None:
        """Give the connections up."""


class _Failed(Exception):
    """The provider failed: a status of 5xx. It may work the next time."""


class _Unreadable(Exception):
    """The provider works, and its answer to this one question breaks the contract. It may be better the next time."""


class _Busy(Exception):
    """The provider works, and asks us to come back later."""


# What says that the provider is not well, as opposed to what says that we are not.
FAILURES = (httpx.TransportError, TimeoutError, _Failed)


@lru_cache
def authorities() -> ssl.SSLContext:
    """Whose certificates a provider may have. To read them takes as long as all the rest of a gateway's beginning."""
    return httpx.create_ssl_context(trust_env=False)


class HttpGateway:
    """The provider over HTTP, with a pool of connections and a breaker of its own: one for a process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._slots = asyncio.Semaphore(settings.payment_connections_max)
        self._breaker = Breaker(
            failures_max=settings.payment_breaker_failures,
            cooldown_seconds=settings.payment_breaker_cooldown_seconds,
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
            verify=authorities(),
            trust_env=False,  # The settings alone say where the money is.
        )

    async def create(
        self, *, order_id: UUID, amount_minor: int, currency: str, attempt: int = 1, return_url: str | None = None
    ) -> Intent:
        """See `Gateway`. Refused with 422 `idempotency_mismatch` for another amount or currency than before."""
        body: dict[str, object] = {"order_id": str(order_id), "amount_minor": amount_minor, "currency": currency}
        if return_url is not None:
            body["return_url"] = return_url
        key = str(order_id) if attempt == 1 else f"{order_id}.{attempt}"
        return await self._call("create", read_intent, "POST", "/v1/intents", body=body, key=key)

    async def read(self, intent_id: str) -> Intent:
        """See `Gateway`. Refused with 404 `not_found`."""
        return await self._call("read", read_intent, "GET", _path(intent_id))

    async def cancel(self, intent_id: str) -> Intent:
        """See `Gateway`."""
        return await self._call("cancel", read_intent, "POST", _path(intent_id, "cancel"))

    async def refund(self, intent_id: str, *, key: str, amount_minor: int) -> ProviderRefund:
        """See `Gateway`. Refused with 409 `not_captured`, or 422 `refund_too_large`."""
        body = {"amount_minor": amount_minor}
        return await self._call("refund", read_refund, "POST", _path(intent_id, "refunds"), body=body, key=key)

    async def events(self, *, after: int, limit: int) -> list[ProviderEvent | UnreadableEvent]:
        """See `Gateway`."""
        found = await self._call("events", read_events, "GET", f"/v1/events?after={after}&limit={limit}")
        numbers = [after, *(event.seq for event in found if event.seq is not None)]
        if len(found) > limit or any(later <= earlier for earlier, later in pairwise(numbers)):
            log.error("provider_events_disordered", after=after, limit=limit, numbers=numbers[:10])
            raise ProviderUnavailable("The provider's events are not in order")
        return found

    async def close(self) -> None:
        """See `Gateway`."""
        await self._client.aclose()

    async def _call(
        self,
        operation: str,
        read: Callable[[bytes], Answer],
        method: str,
        path: str,
        *,
        body: object = None,
        key: str | None = None,
    ) -> Answer:
        headers = {} if key is None else {"Idempotency-Key": key}
        content = None
        if body is not None:
            headers["Content-Type"], content = "application/json", msgspec.json.encode(body)

        async def ask() -> Answer:
            # A new request each time: one that was sent cannot be sent again.
            return await self._ask(self._client.build_request(method, path, content=content, headers=headers), read)

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
            except CircuitOpen as error:
                raise ProviderUnavailable(retry_after=error.cooldown_seconds) from error
            except (*FAILURES, _Busy, _Unreadable) as error:
                failure = error
                log.warning("provider_failed", operation=operation, attempt=attempt + 1, reason=repr(error)[:200])
        raise ProviderUnavailable from failure

    async def _try_once(self, ask: Callable[[], Awaitable[Answer]], deadline: float) -> Answer:
        # To wait for one of our own connections, or to have little time left after it, is no failure of the provider.
        async with asyncio.timeout_at(deadline), self._slots:
            with self._breaker.asked(*FAILURES):
                async with asyncio.timeout(self._settings.payment_timeout_seconds):
                    return await ask()

    async def _ask(self, request: httpx.Request, read: Callable[[bytes], Answer]) -> Answer:
        response = await self._client.send(request, stream=True)
        try:
            content = await _content(response)
        finally:
            await response.aclose()
        status = response.status_code
        if response.is_success:
            return _understood(content, read)
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
            raise _Unreadable(f"an answer of more than {ANSWER_BYTES_MAX} bytes")
    return bytes(content)


def _understood(content: bytes, read: Callable[[bytes], Answer]) -> Answer:
    try:
        return read(content)
    except (ValueError, RecursionError) as error:
        raise _Unreadable(f"an answer that is not understood: {error}") from error


def _code(content: bytes) -> str:
    with suppress(ValueError, RecursionError):
        return msgspec.json.decode(content, type=_Problem).code
    return "unknown"


def _path(intent_id: str, *more: str) -> str:
    return "/".join(("/v1/intents", quote(intent_id, safe=""), *more))


def _tell_breaker(is_open: bool) -> None:
    metrics.PROVIDER_BREAKER.set(is_open)
    log.warning("provider_breaker", open=is_open)
