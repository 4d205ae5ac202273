"""The settings of the edge: who stands between the shop and its clients, and what of a client is counted together."""

import re
from ipaddress import IPv6Address
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from shop.client_addresses import TrustedProxies

ORIGIN_RULE = (
    "an origin is a scheme and a host, perhaps with a port, and no more: https://shop.example or http://localhost:3000;"
    " `*` stands alone and lets every page in; `null` is no origin of anybody"
)
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
HOST_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
DEFAULT_PORTS = {"http": 80, "https": 443}


def normal_origin(text: str) -> str:
    """An origin as browsers write it. Raises ValueError with the rule."""
    try:
        parts = urlsplit(text.strip())
        scheme, port, host = parts.scheme.lower(), parts.port, _normal_host(parts.hostname or "")
    except ValueError as error:
        raise ValueError(f"{text!r}: {ORIGIN_RULE}") from error
    more = parts.path not in {"", "/"} or parts.query or parts.fragment or "@" in parts.netloc or set("?#") & set(text)
    if more or not host or not SCHEME.fullmatch(scheme) or parts.netloc.endswith(":") or port == 0:
        raise ValueError(f"{text!r}: {ORIGIN_RULE}")
    return f"{scheme}://{host}" + ("" if port in {None, DEFAULT_PORTS.get(scheme)} else f":{port}")


def _normal_host(host: str) -> str:
    """In lower case, a name of other letters in its ASCII form; empty if it is none. Raises ValueError."""
    if ":" in host:
        return f"[{IPv6Address(host)}]"
    ascii_host = host.rstrip(".").encode("idna").decode() if not host.isascii() else host.lower()
    return ascii_host if all(HOST_LABEL.fullmatch(label) for label in ascii_host.split(".")) else ""


def _origins(origins: list[str]) -> list[str]:
    if origins == ["*"]:
        return origins
    return list(dict.fromkeys(normal_origin(each) for each in origins))


def _named_origins(origins: list[str]) -> list[str]:
    return [normal_origin(each) for each in origins]


def _proxies(text: str) -> str:
    TrustedProxies.parse(text)
    return text


class EdgeSettings(BaseSettings):
    """Who is believed about where a request comes from."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    trusted_proxies: Annotated[str, AfterValidator(_proxies)] = "127.0.0.1,::1"
    """Proxies whose X-Forwarded-For and -Proto are believed: addresses, networks and `unix:`, comma-separated."""
    cors_origins: Annotated[list[str], AfterValidator(_origins)] = Field([])
    """Origins of browsers that may use the API, as a JSON list; `["*"]` is every one."""
    connections_per_address_max: int = Field(1_000, ge=1)
    """Connections of one client's address to one process, and never more than half of all; more are closed at once."""
    return_origins: Annotated[list[str], AfterValidator(_named_origins)] | None = None
    """Origins to which a buyer may return from the payment page, as a JSON list; the CORS origins if unset."""
    ipv6_client_prefix_bits: int = Field(64, ge=32, le=128)
    """Clients of IPv6 are counted by networks of this size: one client has all the addresses of its own."""

    @property
    def origins_to_return_to(self) -> list[str]:
        """`return_origins`, or the origins whose pages may use the API; `*` is the name of none."""
        return self.cors_origins if self.return_origins is None else self.return_origins

    @property
    def proxies(self) -> TrustedProxies:
        """`trusted_proxies`, read."""
        return TrustedProxies.parse(self.trusted_proxies)
