"""Where the provider may send a buyer's browser after the payment: to pages of the shop, and nowhere else."""

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

from shop.errors import Invalid
from shop.settings import Settings
from shop.settings.edge import normal_origin

RETURN_URL_LENGTH_MAX = 2_000
RULE = (
    "a return_url is https:// and one of the shop's own origins (SHOP_RETURN_ORIGINS), perhaps with a path and a query,"
    f" in at most {RETURN_URL_LENGTH_MAX} characters of ASCII; it has no user, no fragment and no backslash"
)
# No two readers of it see two hosts: no `@` and no `\` is before a path.
RETURN_URL = re.compile(
    r"(?P<origin>https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[1-9][0-9]{0,4})?)"
    r"(?:[/?](?:[A-Za-z0-9._~:/?\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)?",
    re.ASCII,
)


def check_return_url(url: str, settings: Settings) -> str:
    """The URL, if a buyer may be sent there. Raises Invalid with the rule."""
    found = RETURN_URL.fullmatch(url) if len(url) <= RETURN_URL_LENGTH_MAX else None
    if found is None or not _is_known(found["origin"], settings):
        raise Invalid(RULE, pointer="/return_url")
    return url


def _is_known(written: str, settings: Settings) -> bool:
    try:
        origin = normal_origin(written)
    except ValueError:
        return False
    encrypted = origin.startswith("https://") or (settings.environment == "development" and _is_here(origin))
    return encrypted and origin in settings.origins_to_return_to


def _is_here(origin: str) -> bool:
    """Whether an origin is this machine's own."""
    host = urlsplit(origin).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
