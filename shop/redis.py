"""Connections to Redis, the Lua scripts, and one call that is sent at most once and tells what became of it."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import redis.asyncio as aioredis
from redis import exceptions
from redis.asyncio.connection import DefaultParser

from shop.settings import Settings, bundled

SCRIPT_NAMES = ("load_sale", "change", "reserve", "release", "fence", "rate_limit", "hot_products")
# Those of the release before that are other ones now: its processes go on while the workers are upgraded before them,
# also when Redis restarts meanwhile.
SCRIPTS_BEFORE = ("reserve", "release")

# What a Redis answers that cannot do it now: it runs a script that does not end, is full, cannot write to its disk, was
# made a replica, or has lost its own. The next try may find it well, and nothing was done.
UNABLE_WORDS = ("BUSY", "OOM", "MISCONF", "READONLY", "MASTERDOWN", "NOREPLICAS", "CLUSTERDOWN", "TRYAGAIN")

# What a broken connection raises, by redis-py or by the loop; `Unable` is one of them.
CONNECTION_ERRORS = (exceptions.ConnectionError, exceptions.TimeoutError, OSError, TimeoutError)
# The same, and an answer that is an error.
REDIS_ERRORS = (exceptions.RedisError, *CONNECTION_ERRORS)


Command = Sequence[str | bytes | int]


class Unable(exceptions.ConnectionError):
    """Redis answered that it cannot do this now: that says nothing about what it holds."""


class _Parser(DefaultParser):  # type: ignore[misc, valid-type]
    """The client's own parser, which takes most of these for errors of the command."""

    EXCEPTION_CLASSES = {**DefaultParser.EXCEPTION_CLASSES, **dict.fromkeys(UNABLE_WORDS, Unable)}  # noqa: RUF012


class ScriptMissing(RuntimeError):
    """A script of the shop is not in this installation."""


class NotSent(Exception):
    """The command was definitely not executed: no connection, or Redis refused it before the first write."""


class ScriptsNotLoaded(NotSent):
    """Redis does not know the scripts. Only the controller loads them, after it has compared ledger and Postgres."""


class OutcomeUnknown(Exception):
    """The command was sent and no answer came: it was executed, or it was not."""


@dataclass(frozen=True)
class Script:
    """One Lua file and the SHA-1 by which Redis knows it."""

    name: str
    source: str
    sha: str


@lru_cache
def script(name: str, *, before: bool = False) -> Script:
    """The script of this name, or that of the release before. Raises ScriptMissing when its file is not there."""
    file = f"before/{name}.lua" if before else f"{name}.lua"
    path = bundled("lua") / file
    if not path.is_file():
        raise ScriptMissing(f"the script lua/{file} is missing from this installation of the shop")
    source = path.read_text()
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


def all_scripts() -> list[Script]:
    """Every script. Raises ScriptMissing, so that a process does not start without one."""
    return [script(name) for name in SCRIPT_NAMES]


def connect(url: str, settings: Settings, *, connections_max: int | None = None) -> aioredis.Redis:
    """A client whose pool waits for a free connection. Every socket has a timeout, and nothing is retried."""
    pool = aioredis.BlockingConnectionPool.from_url(
        url,
        max_connections=connections_max or settings.redis_pool_max,
        timeout=settings.redis_pool_wait_seconds,
        socket_timeout=settings.redis_timeout_seconds,
        socket_connect_timeout=settings.redis_timeout_seconds,
        # The library would introduce itself on every connection, which no user of the shop has a right to.
        lib_name=None,
        lib_version=None,
        parser_class=_Parser,
    )
    return aioredis.Redis.from_pool(pool)


def connections_in_use(client: aioredis.Redis) -> int:
    """How many connections of the client's pool are lent."""
    return len(client.connection_pool._in_use_connections)  # noqa: SLF001 - the pool has no public count


async def scripts_loaded(client: aioredis.Redis) -> bool:
    """Whether Redis knows every script."""
    known = await client.script_exists(*(each.sha for each in all_scripts()))
    return all(known)


async def load_scripts(client: aioredis.Redis) -> None:
    """Make every script known to Redis, also those of the release before. For the controller alone."""
    for each in (*all_scripts(), *(script(name, before=True) for name in SCRIPTS_BEFORE)):
        await client.script_load(each.source)


async def call_script(
    client: aioredis.Redis,
    name: str,
    keys: Sequence[str | bytes],
    arguments: Sequence[str | bytes | int],
    *,
    timeout: float,
) -> Any:
    """Send one EVALSHA, once, and wait at most `timeout` seconds for its answer.

    Raises NotSent (definitely not executed), its kind ScriptsNotLoaded, or OutcomeUnknown.
    """
    pool = client.connection_pool
    try:
        connection = await pool.get_connection()
    except (*CONNECTION_ERRORS, exceptions.ResponseError, RuntimeError) as error:
        # A RuntimeError is uvloop's word for a connection that was closed while it was greeted.
        raise NotSent(str(error)) from error
    try:
        async with asyncio.timeout(timeout):
            await connection.send_packed_command(packed_call(name, keys, arguments))
            return await connection.read_response()
    except (*REDIS_ERRORS, RuntimeError) as error:
        outcome = outcome_of(error)
        if isinstance(outcome, OutcomeUnknown):
            await connection.disconnect(nowait=True)
        raise outcome from error
    except asyncio.CancelledError:
        await connection.disconnect(nowait=True)
        raise
    finally:
        await pool.release(connection)


async def call_many(client: aioredis.Redis, commands: Sequence[Command], *, timeout: float) -> list[Any]:
    """Send commands over one connection, once, and return their answers in order, errors of Redis among them.

    One timeout for all of them: the client's own pipeline has one for each, and takes three times the CPU. Raises one
    of CONNECTION_ERRORS.
    """
    connection = await client.connection_pool.get_connection()
    try:
        async with asyncio.timeout(timeout):
            await connection.send_packed_command(b"".join(map(_command, commands)))
            return [await connection._parser.read_response() for _ in commands]  # noqa: SLF001
    except RuntimeError as error:  # uvloop's word for a connection that was closed meanwhile
        await connection.disconnect(nowait=True)
        raise exceptions.ConnectionError(str(error)) from error
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    finally:
        await client.connection_pool.release(connection)


def outcome_of(error: Exception) -> NotSent | OutcomeUnknown:
    """What an error of a script call says of it: not executed, or nobody knows."""
    if isinstance(error, exceptions.NoScriptError):
        return ScriptsNotLoaded(str(error))
    if isinstance(error, exceptions.ResponseError | exceptions.BusyLoadingError | Unable):
        # Loading, out of memory, read-only, a key of the wrong type: the scripts check before they write.
        return NotSent(str(error))
    return OutcomeUnknown(str(error))


def packed_call(name: str, keys: Sequence[str | bytes], arguments: Sequence[str | bytes | int]) -> bytes:
    """The EVALSHA of a script in the protocol of Redis."""
    return _command(("EVALSHA", script(name).sha, len(keys), *keys, *arguments))


def _command(arguments: Command) -> bytes:
    """A command in the protocol of Redis. The client's own way copies the whole again for each argument."""
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        data = argument if isinstance(argument, bytes) else str(argument).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)
