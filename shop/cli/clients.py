"""What commands work with: the servers of the settings, and a key for what must not be done twice."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, TypeVar
from uuid import uuid4

import redis.asyncio as aioredis
import typer

from shop.auth import COMMAND_LINE
from shop.cli.output import NotPrinted, fail
from shop.cli.unreachable import SERVER_ERRORS, naming_servers
from shop.database import CommitUnknown, Database
from shop.idempotency.keys import parse_key
from shop.idempotency.service import Asked, fingerprint
from shop.logs import configure_logs
from shop.pool_sizes import COMMANDS_POOL_MAX
from shop.redis import connect
from shop.settings import Settings, get_settings

Key = Annotated[
    str | None, typer.Option(help="The key of a command whose outcome is unknown, to repeat it: nothing is done twice.")
]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Clients:
    """What a command may use."""

    settings: Settings
    database: Database
    ledger: aioredis.Redis


def run(work: Callable[[Clients], Awaitable[Result]]) -> Result:
    """Run one command with the servers of the settings, and close them whatever happens. Raises ServerUnreachable."""
    settings = get_settings()
    configure_logs(settings)

    async def within() -> Result:
        database = Database(settings, application_name="shop-cli", pool_max=COMMANDS_POOL_MAX)
        ledger = connect(settings.redis_url, settings)
        try:
            return await work(Clients(settings, database, ledger))
        finally:
            with suppress(*SERVER_ERRORS):  # The command is done, or has failed with an error of its own.
                await database.close()
                await ledger.aclose(close_connection_pool=True)

    with naming_servers(settings):
        return asyncio.run(within())


@contextmanager
def keyed(key: str | None, *words: object) -> Iterator[Asked]:
    """The key of a command that must not be done twice, a new one unless it was named; `words` are what is asked for.

    Keep it around the work and the output. When the command was carried out and cannot say so, or when nobody can tell
    whether it was, its error names the key to repeat it with.
    """
    key = uuid4().hex if key is None else parse_key(key)
    try:
        yield Asked(COMMAND_LINE.id, key, fingerprint("shop", " ".join(map(str, words)), b""))
    except (CommitUnknown, KeyboardInterrupt) as error:
        status = 130 if isinstance(error, KeyboardInterrupt) else 1
        fail(f"the outcome is unknown; repeat the command with --key {key}", code="unknown_outcome", status=status)
    except NotPrinted as error:
        raise NotPrinted(f"{error}; to see it, repeat the command with --key {key}") from error
