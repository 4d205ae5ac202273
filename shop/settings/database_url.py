"""The URL of Postgres as libpq has it and hosting providers write it, and what the driver (asyncpg) takes of it."""

import ssl
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlencode, urlsplit

SCHEMES = frozenset({"postgres", "postgresql", "postgresql+asyncpg"})
SSL_MODES = frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"})
SESSIONS = frozenset({"any", "read-write", "read-only", "primary", "standby", "prefer-standby"})
FILES = frozenset({"sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile"})
SYSTEM = "system"  # libpq's name for the certificates that the operating system trusts

# What the driver reads from the URL by itself.
PASSED_ON = FILES | {
    "host", "port", "dbname", "database", "user", "password", "service", "sslmode", "sslpassword", "sslnegotiation",
    "ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs", "krbsrvname", "gsslib",
}  # fmt: skip
# What the shop does in its own way: it pings, offers no compression, always sends the server's name, speaks UTF-8. The
# driver cannot bind a channel: `sslmode=verify-full` is what proves who the server is.
NOT_NEEDED = frozenset({
    "channel_binding", "client_encoding", "fallback_application_name", "gssencmode", "keepalives", "keepalives_count",
    "keepalives_idle", "keepalives_interval", "load_balance_hosts", "sslcompression", "sslsni", "tcp_user_timeout",
})  # fmt: skip
# The driver's and SQLAlchemy's own, for a pooler that gives each transaction another connection.
CACHES = frozenset({"statement_cache_size", "prepared_statement_cache_size"})


class DatabaseAddress(NamedTuple):
    """How a connection is made: the driver's `arguments`, and what is merged with the shop's own of the same name.

    `connect_seconds` is None, and the name or the options '', when the URL does not say so.
    """

    arguments: dict[str, Any]
    connect_seconds: float | None
    application_name: str
    options: str


def database_address(url: str) -> DatabaseAddress:
    """Read a URL. Raises ValueError, in one line that never shows the password."""
    head, query = _parts(url)
    own = {name: query.pop(name, "") for name in ("connect_timeout", "application_name", "options")}
    caches = {name: _number(name, query.pop(name)) for name in CACHES & query.keys()}
    secured = _secured(query)
    if "," in head.netloc or "," in query.get("host", ""):
        # One of several is the primary, and the shop must write.
        query.setdefault("target_session_attrs", "read-write")
    passed_on = {name: value for name, value in query.items() if name not in NOT_NEEDED}
    dsn = f"postgresql://{head.netloc}{head.path}?{urlencode(passed_on, quote_via=quote)}"
    connect_seconds = _number("connect_timeout", own["connect_timeout"] or "0")
    arguments = {"dsn": dsn.removesuffix("?"), **caches, **secured}
    return DatabaseAddress(arguments, connect_seconds or None, own["application_name"], own["options"])


def with_driver(url: str) -> str:
    """The same URL with the name of the driver. Raises ValueError when it cannot be used."""
    database_address(url)
    return "postgresql+asyncpg://" + url.split("://", 1)[1]


def _parts(url: str) -> tuple[Any, dict[str, str]]:
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in SCHEMES:
        raise ValueError("must begin with postgresql:// or postgres://")
    if "#" in url:
        raise ValueError("has a # in it: in a password that is written %23")
    try:
        parts = urlsplit(url)
        _ = [int(port) for port in _ports(parts.netloc)]
    except ValueError:
        raise ValueError("has hosts or ports that cannot be read") from None
    if parts.netloc.count("@") > 1:
        raise ValueError("has two @ in it: in a password that is written %40")
    query: dict[str, str] = {}
    for pair in filter(None, parts.query.split("&")):
        name, _, value = pair.partition("=")  # A + stands for itself, as in libpq.
        value = unquote(value)
        query[name] = f"{query[name]},{value}" if name == "host" and name in query else value
    if "ssl" in query:
        query["sslmode"] = query.pop("ssl")  # the driver's own name
    _check(query)
    return parts, query


def _ports(netloc: str) -> list[str]:
    hosts = netloc.rpartition("@")[2].split(",")
    return [port for host in hosts if (port := host.rpartition("]")[2].partition(":")[2])]


def _check(query: dict[str, str]) -> None:
    known = PASSED_ON | NOT_NEEDED | CACHES | {"connect_timeout", "application_name", "options"}
    if unknown := sorted(query.keys() - known):
        raise ValueError(f"has the unknown parameter {unknown[0]!r}")
    for name, allowed in {"sslmode": SSL_MODES, "target_session_attrs": SESSIONS}.items():
        if query.get(name, min(allowed)) not in allowed:
            raise ValueError(f"has {name}={query[name]!r}, which is none of {', '.join(sorted(allowed))}")
    if query.get("gssencmode") == "require":
        raise ValueError("has gssencmode=require, which the driver cannot do")
    if query.get("client_encoding", "auto").lower().replace("-", "") not in {"auto", "utf8"}:
        raise ValueError("has a client_encoding that is not UTF8")
    for name in FILES & query.keys():
        if query[name] != SYSTEM and not Path(query[name]).is_file():
            raise ValueError(f"has {name}={query[name]!r}, and there is no such file")


def _secured(query: dict[str, str]) -> dict[str, Any]:
    """What `sslrootcert=system` means, which the driver does not know; libpq then checks the name as well."""
    if query.get("sslrootcert") != SYSTEM:
        return {}
    if query.pop("sslmode", "verify-full") != "verify-full":
        raise ValueError("has sslrootcert=system, which goes with sslmode=verify-full only")
    del query["sslrootcert"]
    return {"ssl": ssl.create_default_context()}


def _number(name: str, value: str) -> int:
    if not value.isascii() or not value.isdigit():
        raise ValueError(f"has {name}={value!r}, which is not a whole number")
    return int(value)
