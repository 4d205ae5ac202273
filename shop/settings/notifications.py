"""The settings of notifications."""

from email.errors import HeaderParseError
from email.headerregistry import Address
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shop.currencies import is_locale


class NotificationSettings(BaseSettings):
    """Who is told of what happens, and how long it is tried."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    notification_log: bool = False
    """Write every notification into the log."""
    smtp_url: SecretStr | None = None
    """The mail submission server: `smtp://user:password@host:587` or `smtps://host`; without it no mail is sent."""
    smtp_cleartext_sign_in_allowed: bool = False
    """`smtp://` with a password may sign in to a server that offers no STARTTLS: whoever listens reads the password."""
    locale: str = "en"
    """How sums are written in mails: a locale, such as `de` or `pt_BR`."""
    mail_from: str = Field("shop@localhost", max_length=254)
    """The sender of mails."""
    expiring_soon_seconds: int = Field(120, ge=30, le=2_592_000)
    """How long before its end a hold is called to mind; a hold must last at least twice as long for that."""
    notification_batch_max: int = Field(500, ge=1, le=2_000)
    """Events that are collected in one transaction."""
    notification_batches_max: PositiveInt = 20
    """Transactions of one run of the collector."""
    notification_keep_days: PositiveInt = 30
    """How long a notification and its dead letters are kept."""
    delivery_batch_max: int = Field(16, ge=1, le=100)
    """Deliveries to one receiver that are under way at the same time."""
    delivery_receivers_max: int = Field(16, ge=1, le=100)
    """Receivers that one worker serves at the same time."""
    delivery_timeout_seconds: PositiveFloat = 10.0
    """How long one try may take."""
    delivery_lease_seconds: PositiveFloat = 60.0
    """A delivery whose worker died is tried again after this."""
    delivery_retry_seconds: PositiveFloat = 5.0
    """The pause after the first failed try; each further one is three times as long, all ± 20 %."""
    delivery_retry_hours_max: PositiveFloat = 24.0
    """How long a delivery is tried before it is a dead letter."""
    webhooks_max: int = Field(100, ge=0, le=1_000)
    """Webhooks that merchants may have."""
    webhook_private_addresses_allowed: bool = False
    """Development only: webhooks may be at private addresses, and without TLS."""
    webhook_disable_after_days: PositiveFloat = 5.0
    """A webhook that has failed for so long without a success is disabled."""

    @field_validator("smtp_url")
    @classmethod
    def _smtp(cls, url: SecretStr | None) -> SecretStr | None:
        parts = urlsplit(url.get_secret_value()) if url else None
        if parts and (parts.scheme not in {"smtp", "smtps"} or not parts.hostname):
            raise ValueError("must be smtp://host:port or smtps://host:port")
        return url

    @field_validator("locale")
    @classmethod
    def _locale(cls, name: str) -> str:
        if not is_locale(name):
            raise ValueError("SHOP_LOCALE must be a locale, such as en, de or pt_BR")
        return name

    @field_validator("mail_from")
    @classmethod
    def _address(cls, address: str) -> str:
        try:
            return Address(addr_spec=address).addr_spec
        except (HeaderParseError, IndexError) as error:  # The parser's own, of which only some are ValueErrors.
            raise ValueError("it must be an e-mail address") from error

    @model_validator(mode="after")
    def _outlives(self) -> Self:
        if self.delivery_timeout_seconds >= self.delivery_lease_seconds:
            raise ValueError("SHOP_DELIVERY_TIMEOUT_SECONDS must be below SHOP_DELIVERY_LEASE_SECONDS")
        return self
