"""Notifications to merchants: one signed POST each, as Standard Webhooks describes it (standardwebhooks.com)."""

import asyncio
import ssl
from datetime import UTC, datetime
from functools import lru_cache

import httpcore
import msgspec
from standardwebhooks import Webhook

from shop.notifications.addresses import AddressRefused, CheckedBackend, Resolve, parse_url, port_of, resolve
from shop.notifications.delivering.sinks import Gone, Leased, NotDelivered
from shop.settings import Settings

ANSWER_BYTES_MAX = 64 * 1024
KEEP_ALIVE_SECONDS = 30.0
GONE = 410
USER_AGENT = "shop-webhooks/1"


class WebhookChannel:
    """Posts notifications over pooled connections. It follows no redirect and heeds no proxy of the environment."""

    def __init__(
        self, settings: Settings, *, resolve: Resolve = resolve, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        self._timeout = settings.delivery_timeout_seconds
        self._private_allowed = settings.webhook_private_addresses_allowed
        connections = settings.delivery_batch_max * settings.delivery_receivers_max
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context or _public_tls(),
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=KEEP_ALIVE_SECONDS,
            network_backend=CheckedBackend(private_allowed=self._private_allowed, resolve=resolve),
        )

    async def deliver(self, leased: Leased) -> None:
        """Post it. Raises NotDelivered for any answer but 2xx, and Gone for 410."""
        if leased.webhook is None:
            raise NotDelivered("the webhook is disabled")
        body = msgspec.json.encode(leased.payload)
        headers = signed_headers(leased, leased.webhook.secrets, body)
        try:
            async with asyncio.timeout(self._timeout):
                status = await self._post(leased.webhook.url, headers, body)
        except AddressRefused as error:
            raise NotDelivered(f"refused: {error}") from error
        except TimeoutError as error:
            raise NotDelivered(f"no answer within {self._timeout:g} s") from error
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            raise NotDelivered(f"{type(error).__name__}: {error}") from error
        if status == GONE:
            raise Gone("answered 410")
        if not 200 <= status < 300:
            raise NotDelivered(f"answered {status}")

    async def _post(self, url: str, headers: dict[str, str], body: bytes) -> int:
        parsed = parse_url(url, private_allowed=self._private_allowed)
        target = httpcore.URL(
            scheme=parsed.raw_scheme, host=parsed.raw_host, port=port_of(parsed), target=parsed.raw_path
        )
        sent = [("Host", parsed.netloc.decode("ascii")), *headers.items()]
        phases = dict.fromkeys(("connect", "read", "write", "pool"), self._timeout)
        async with self._pool.stream(
            "POST", target, headers=sent, content=body, extensions={"timeout": phases}
        ) as answer:
            await _read_some(answer)
            return answer.status

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.aclose()


def signed_headers(leased: Leased, secrets: tuple[str, ...], body: bytes) -> dict[str, str]:
    """The headers of one try: the id is that of the notification, the time is now, one signature for each secret."""
    now, message_id = datetime.now(UTC), str(leased.notification_id)
    signatures = [Webhook(secret).sign(message_id, now, body.decode()) for secret in secrets]
    return {
        "Content-Type": "application/json",
        "User-Agent": USER_AGENT,
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


@lru_cache
def _public_tls() -> ssl.SSLContext:
    """Trusts whom browsers trust. Reading their list takes a while, so it is read once."""
    return httpcore.default_ssl_context()


async def _read_some(answer: httpcore.Response) -> None:
    """Read what was said, so that the connection can be used again; one that says too much is closed instead."""
    size = 0
    async for part in answer.aiter_stream():
        size += len(part)
        if size > ANSWER_BYTES_MAX:
            return
