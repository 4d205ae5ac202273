"""Where things are: what a host and the URL of a server must look like, so that a wrong one is found at the start."""

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from shop.settings.database_url import with_driver
from shop.settings.redis_url import redis_url

# A name, an IPv4 address or an IPv6 address without brackets; which of them there are is known by the resolver alone.
HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%\w+)?")


def _host(host: str) -> str:
    if not HOST.fullmatch(host):
        raise ValueError("it must be a host's name or an address, without a port")
    return host


def server_url(url: str, schemes: tuple[str, ...]) -> str:
    """The URL itself. Raises ValueError when its scheme, its host or its port cannot be."""
    parts = urlsplit(url)
    if parts.scheme not in schemes or not (parts.netloc or parts.path):
        raise ValueError(f"it must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    if parts.port == 0 or (parts.hostname and not HOST.fullmatch(parts.hostname)):
        raise ValueError("its host or its port cannot be")
    return url


Host = Annotated[str, AfterValidator(_host)]
RedisUrl = Annotated[str, AfterValidator(redis_url)]
PostgresUrl = Annotated[str, AfterValidator(with_driver)]


def http_url(host: str, port: int) -> str:
    """`http://host:port`, with brackets around an IPv6 address."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
