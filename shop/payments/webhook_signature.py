"""The provider's webhooks: signed as Standard Webhooks has it, or refused."""

from collections.abc import Mapping

import msgspec
from standardwebhooks import Webhook

from shop.errors import WebhookInvalid, WebhookUnsigned
from shop.payments.gateway import ProviderEvent
from shop.settings import Settings

SIGNED_HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")
HEADER_CHARACTERS_MAX = 2_048


def parse_webhook(settings: Settings, headers: Mapping[str, str], body: bytes) -> ProviderEvent:
    """The event in a webhook that was signed with one of our secrets in the last five minutes.

    `headers` are looked up in lower case. Raises WebhookUnsigned or, for a body that is signed and no event,
    WebhookInvalid.
    """
    signed = {name: headers.get(name, "") for name in SIGNED_HEADERS}
    if not any(_is_signed(secret, signed, body) for secret in settings.webhook_secrets):
        raise WebhookUnsigned
    try:
        return msgspec.json.decode(body, type=ProviderEvent)
    except (ValueError, RecursionError) as error:
        raise WebhookInvalid(str(error)) from error


def _is_signed(secret: str, headers: dict[str, str], body: bytes) -> bool:
    if any(len(value) > HEADER_CHARACTERS_MAX for value in headers.values()):
        return False
    try:
        Webhook(secret).verify(body, headers, json_parse=False)
    except Exception:  # noqa: BLE001 - whatever hostile headers make the library raise is a refusal
        return False
    return True
