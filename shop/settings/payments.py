"""The settings of payments."""

import base64
import binascii
from ipaddress import ip_address
from urllib.parse import urlsplit

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

DEVELOPMENT_PAYMENT_API_KEY = "a-key-of-the-sandbox-for-development-only"
DEVELOPMENT_WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"for-development-only-never-for-production").decode()
WEBHOOK_SECRET_BYTES_MIN, WEBHOOK_SECRET_BYTES_MAX = 24, 64  # as Standard Webhooks has it


class PaymentSettings(BaseSettings):
    """How the payment provider is reached, and how often it is asked."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    payment_provider_url: str = Field("http://127.0.0.1:8900", pattern=r"^https?://[^/?#\s]+[^?#\s]*$")
    """Where the payment provider's API is; production needs https, unless it is on this machine."""
    payment_api_key: SecretStr = SecretStr(DEVELOPMENT_PAYMENT_API_KEY)
    """What the shop shows the provider."""
    payment_webhook_secret: SecretStr = SecretStr(DEVELOPMENT_WEBHOOK_SECRET)
    """`whsec_…`, with which the provider signs; several with a space between them while it is changed."""
    payment_timeout_seconds: PositiveFloat = 3.0
    """How long one try of a call to the provider may take; keep it below the deadline, or stalls open no breaker."""
    payment_deadline_seconds: PositiveFloat = 8.0
    """How long a call to the provider may take with all its tries; after it, 503."""
    payment_tries_max: int = Field(3, ge=1, le=10)
    """Tries of one call to the provider; each carries the same key, so that it is done once."""
    payment_connections_max: PositiveInt = 20
    """Connections to the provider of one process."""
    payment_breaker_failures: PositiveInt = 5
    """After so many failures in a row the circuit to the provider opens."""
    payment_breaker_cooldown_seconds: PositiveFloat = 5.0
    """How long the circuit is open; then one call tries whether the provider is back."""
    payment_attempts_max: int = Field(20, ge=1, le=1_000)
    """Intents of one order, one after the other: the next is made when the provider has ended the last unpaid."""
    payment_match_batch_max: PositiveInt = 200
    """Captured payments that one run of the job matches to an order or a refund."""
    provider_batch_max: PositiveInt = 50
    """Intents and refunds that one run of a job asks the provider about."""
    provider_pause_seconds: PositiveFloat = 1.0
    """The first pause until the provider is asked the same again; it doubles up to 128 times that."""
    reconcile_page_max: int = Field(500, ge=1, le=500)
    """Events of the provider's own list that are read at once."""
    reconcile_pages_max: PositiveInt = 20
    """Such pages in one run of the reconciling job."""

    @field_validator("payment_webhook_secret")
    @classmethod
    def _standard_webhooks(cls, secrets: SecretStr) -> SecretStr:
        named = secrets.get_secret_value().split()
        if not named or not all(map(_is_webhook_secret, named)):
            raise ValueError(
                f"SHOP_PAYMENT_WEBHOOK_SECRET must be `whsec_` and the base64 of {WEBHOOK_SECRET_BYTES_MIN}"
                f" to {WEBHOOK_SECRET_BYTES_MAX} random bytes"
            )
        return secrets

    @property
    def webhook_secrets(self) -> tuple[str, ...]:
        """The secrets that the provider may sign with; the first is the one it should use."""
        return tuple(self.payment_webhook_secret.get_secret_value().split())

    def require_encrypted_provider(self) -> None:
        """Raise ValueError where the key of the provider's API would leave this machine in clear."""
        parts = urlsplit(self.payment_provider_url)
        if parts.scheme != "https" and not _is_loopback(parts.hostname or ""):
            raise ValueError("SHOP_PAYMENT_PROVIDER_URL must begin with https:// in production")

    def require_own_payment_secrets(self) -> None:
        """Raise ValueError where a secret is the one that everybody knows."""
        for name, given, known in (
            ("SHOP_PAYMENT_API_KEY", self.payment_api_key, ("", DEVELOPMENT_PAYMENT_API_KEY)),
            ("SHOP_PAYMENT_WEBHOOK_SECRET", self.payment_webhook_secret, (DEVELOPMENT_WEBHOOK_SECRET,)),
        ):
            if given.get_secret_value().strip() in known:
                raise ValueError(f"{name} must be set to the one that the payment provider gave you")


def _is_loopback(host: str) -> bool:
    """Whether a host is this machine, such as a proxy beside the shop that speaks TLS for it."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _is_webhook_secret(text: str) -> bool:
    try:
        key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        return False
    return text.startswith("whsec_") and WEBHOOK_SECRET_BYTES_MIN <= len(key) <= WEBHOOK_SECRET_BYTES_MAX
