"""A server that a command needs and that is away: which one it is, where it was looked for, and what to do."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from redis.exceptions import RedisError
from sqlalchemy.exc import ArgumentError, DBAPIError, ProgrammingError

from shop.database import DATABASE_ERRORS, UNAVAILABLE_ERRORS, CommitUnknown, is_unavailable, sqlstate
from shop.redis import CONNECTION_ERRORS, NotSent, OutcomeUnknown
from shop.settings import Settings

SERVER_ERRORS = (NotSent, OutcomeUnknown, RedisError, *CONNECTION_ERRORS, *UNAVAILABLE_ERRORS)
REDIS_ERRORS = (NotSent, OutcomeUnknown, RedisError)
NO_SCHEMA = {"42P01", "42703", "3F000"}  # a table, a column or a schema that is not there
LOCAL_ENVIRONMENT = Path(".shop/environment")


class ServerUnreachable(Exception):
    """A server cannot be reached or used. The message is one line, and names no password."""


@contextmanager
def naming_servers(settings: Settings) -> Iterator[None]:
    """Within it what the drivers raise becomes ServerUnreachable, but for CommitUnknown and what is a defect."""
    try:
        yield
    except CommitUnknown:
        raise
    except REDIS_ERRORS as error:
        raise ServerUnreachable(_sentence("Redis", "SHOP_REDIS_URL", settings.redis_url, error)) from error
    except ArgumentError as error:
        raise ServerUnreachable(f"SHOP_DATABASE_URL: {_first_line(error)}") from error
    except DATABASE_ERRORS as error:
        if isinstance(error, OSError) and error.filename:
            raise  # It is about a file.
        if isinstance(error, ProgrammingError) and sqlstate(error) in NO_SCHEMA:
            raise ServerUnreachable("the database has not the schema of this release: run `shop migrate`") from error
        if isinstance(error, DBAPIError) and not is_unavailable(error):
            raise
        cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
        raise ServerUnreachable(_sentence("Postgres", "SHOP_DATABASE_URL", settings.database_url, cause)) from error


def _sentence(server: str, setting: str, url: str, error: BaseException) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else _first_line(error)
    return f"{server} cannot be reached at {place_of(url)}: {reason}. {advice_for(setting, url)}"


def advice_for(setting: str, url: str) -> str:
    """What to do about a server that is not where its setting says."""
    place, own = place_of(url), LOCAL_ENVIRONMENT.parent.absolute()
    if place.startswith(("/tmp/shop-", str(own))):  # noqa: S108 - where `shop up` has its sockets
        return "Is the shop up? `shop up` starts it"
    if LOCAL_ENVIRONMENT.exists():
        return f"For the shop of this directory: `. {LOCAL_ENVIRONMENT}`"
    return f"`shop up` starts a shop with servers of its own; {setting} names others"


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    return re.sub(r"(://[^/?#@]*):[^/?#]*@", r"\1:***@", url)


def place_of(url: str) -> str:
    """Where a URL of a server leads: a path, or host and port; without user, password and options."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return parts.path
    named = parse_qs(parts.query).get("host", [""])[0]
    return named or parts.netloc.rpartition("@")[2] or "localhost"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
