"""The provider's webhooks: signed as Standard Webhooks has it, or refused."""

from collections.abc import Mapping

import structlog
from standardwebhooks import Webhook

from shop import metrics
from shop.errors import WebhookInvalid, WebhookUnsigned
from shop.payments.contract import ProviderEvent, UnreadableEvent, read_event
from shop.payments.repository import UNREADABLE
from shop.settings import Settings

SIGNED_HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")
HEADER_CHARACTERS_MAX = 2_048

log = structlog.get_logger(__name__)


def parse_webhook(settings: Settings, headers: Mapping[str, str], body: bytes) -> ProviderEvent:
    """The event in a webhook that was signed with one of our secrets in the last five minutes.

    `headers` are looked up in lower case. Raises WebhookUnsigned or, for a body that is signed and no event,
    WebhookInvalid.
    """
    signed = {name: headers.get(name, "") for name in SIGNED_HEADERS}
    if not any(_is_signed(secret, signed, body) for secret in settings.webhook_secrets):
        raise WebhookUnsigned
    event = read_event(body)
    if isinstance(event, UnreadableEvent):
        metrics.PROVIDER_EVENTS.labels(UNREADABLE).inc()
        log.error("provider_event_unreadable", event_id=event.id, intent_id=event.intent_id, reason=event.reason)
        raise WebhookInvalid(event.reason)
    return event


def _is_signed(secret: str, headers: dict[str, str], body: bytes) -> bool:
    if any(len(value) > HEADER_CHARACTERS_MAX for value in headers.values()):
        return False
    try:
        Webhook(secret).verify(body, headers, json_parse=False)
    except Exception:  # noqa: BLE001 - whatever hostile headers make the library raise is a refusal
        return False
    return True
