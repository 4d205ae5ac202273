"""How commands speak: a few lines for people, one JSON value with `--json`; errors go to standard error."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn, TypeVar
from uuid import uuid4

import redis.asyncio as aioredis
import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from shop.auth import COMMAND_LINE
from shop.database import CommitUnknown, Database
from shop.idempotency.keys import parse_key
from shop.idempotency.service import Asked, fingerprint
from shop.logs import configure_logs
from shop.pool_sizes import COMMANDS_POOL_MAX
from shop.redis import connect
from shop.settings import Settings, get_settings

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value.")]
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
    """Run one command with the servers of the settings, and close them whatever happens."""
    settings = get_settings()
    configure_logs(settings)

    async def within() -> Result:
        database = Database(settings, application_name="shop-cli", pool_max=COMMANDS_POOL_MAX)
        ledger = connect(settings.redis_url, settings)
        try:
            return await work(Clients(settings, database, ledger))
        finally:
            await database.close()
            await ledger.aclose(close_connection_pool=True)

    return asyncio.run(within())


@contextmanager
def keyed(key: str | None, *words: object) -> Iterator[Asked]:
    """The key of a command that must not be done twice, a new one unless it was named; `words` are what is asked for.

    When nobody can tell whether the command was carried out, its error names the key to repeat it with.
    """
    key = parse_key(key) or uuid4().hex
    try:
        yield Asked(COMMAND_LINE.id, key, fingerprint("shop", " ".join(map(str, words)), b""))
    except CommitUnknown:
        fail(f"the outcome is unknown; repeat the command with --key {key}", code="unknown_outcome")


def emit(value: BaseModel | Mapping[str, Any] | Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print a result."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    if as_json:
        print(json.dumps(plain))  # noqa: T201 - this is the command's output
        return
    console = Console(highlight=False)
    if isinstance(plain, Mapping):
        table = Table.grid(padding=(0, 2))
        for name, shown in plain.items():
            table.add_row(f"[dim]{name}[/dim]", "" if shown is None else str(shown))
        console.print(table)
    else:
        for row in plain:
            console.print("  ".join(str(shown) for shown in row.values()))


def fail(reason: str, *, code: str = "failed", status: int = 1) -> NoReturn:
    """End the command with an error: one line, or a JSON object when the command was asked for JSON."""
    if "--json" in sys.argv:
        print(json.dumps({"error": {"code": code, "detail": reason}}))  # noqa: T201
    else:
        Console(stderr=True, highlight=False, markup=False).print(f"error: {reason}", style="red")
    sys.exit(status)
