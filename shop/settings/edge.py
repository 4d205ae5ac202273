"""The settings of the edge: who stands between the shop and its clients, and what of a client is counted together."""

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from shop.client_addresses import TrustedProxies


def _proxies(text: str) -> str:
    TrustedProxies.parse(text)
    return text


class EdgeSettings(BaseSettings):
    """Who is believed about where a request comes from."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    trusted_proxies: Annotated[str, AfterValidator(_proxies)] = "127.0.0.1,::1"
    """Proxies whose X-Forwarded-For and -Proto are believed: addresses, networks and `unix:`, comma-separated."""
    ipv6_client_prefix_bits: int = Field(64, ge=32, le=128)
    """Clients of IPv6 are counted by networks of this size: one client has all the addresses of its own."""

    @property
    def proxies(self) -> TrustedProxies:
        """`trusted_proxies`, read."""
        return TrustedProxies.parse(self.trusted_proxies)
