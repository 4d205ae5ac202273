"""The URL of a Redis as hosting providers write it, and what the client takes of it."""

from pathlib import Path
from urllib.parse import quote, unquote, urlencode, urlsplit

SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss", "unix": "unix"}
FILES = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
TLS = FILES | {"ssl_cert_reqs", "ssl_check_hostname"}
# The timeouts, the size of the pool and that nothing is tried again are the shop's own.
KNOWN = TLS | {"db", "username", "password", "client_name", "health_check_interval"}
CERTIFICATES = frozenset({"none", "optional", "required"})
NUMBERS = frozenset({"db", "health_check_interval"})


def redis_url(url: str) -> str:
    """The same server in the client's spelling. Raises ValueError, in one line that never shows the password."""
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in SCHEMES:
        raise ValueError("must begin with redis://, rediss:// or unix://")
    if "#" in url:
        raise ValueError("has a # in it: in a password that is written %23")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("has a host or a port that cannot be read") from None
    query = dict(pair.partition("=")[::2] for pair in filter(None, parts.query.split("&")))
    query = {name: unquote(value) for name, value in query.items()}
    if scheme == "unix":
        if parts.path in {"", "/"}:
            raise ValueError("has no path of a socket")
    elif not (database := parts.path.removeprefix("/")).isdigit() and database:
        raise ValueError(f"has the database {database!r}, which is not a number")
    _check(SCHEMES[scheme], query)
    parameters = "?" + urlencode(query, quote_via=quote) if query else ""
    return f"{SCHEMES[scheme]}://{parts.netloc}{parts.path}{parameters}"


def _check(scheme: str, query: dict[str, str]) -> None:
    if unknown := sorted(query.keys() - KNOWN):
        raise ValueError(f"has the unknown parameter {unknown[0]!r}")
    if scheme != "rediss" and (meaningless := sorted(query.keys() & TLS)):
        raise ValueError(f"has {meaningless[0]}, which needs rediss://")
    for name in NUMBERS & query.keys():
        if not query[name].isdigit():
            raise ValueError(f"has {name}={query[name]!r}, which is not a whole number")
    for name in FILES & query.keys():
        if not Path(query[name]).is_file():
            raise ValueError(f"has {name}={query[name]!r}, and there is no such file")
    if "ssl_cert_reqs" in query:
        query["ssl_cert_reqs"] = query["ssl_cert_reqs"].lower().removeprefix("cert_")  # as Celery writes it
        if query["ssl_cert_reqs"] not in CERTIFICATES:
            raise ValueError(f"has an ssl_cert_reqs that is none of {', '.join(sorted(CERTIFICATES))}")
