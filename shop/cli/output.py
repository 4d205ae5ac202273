"""How commands speak: a few lines for people, one JSON value with `--json`; errors go to standard error."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn, TypeVar
from uuid import uuid4

import redis.asyncio as aioredis
import typer
from pydantic import BaseModel

from shop.auth import COMMAND_LINE
from shop.cli.unreachable import SERVER_ERRORS, naming_servers
from shop.currencies import written
from shop.database import CommitUnknown, Database
from shop.idempotency.keys import parse_key
from shop.idempotency.service import Asked, fingerprint
from shop.logs import configure_logs
from shop.pool_sizes import COMMANDS_POOL_MAX
from shop.redis import connect
from shop.settings import Settings, get_settings
from shop.terminal import console, visible

NOT_PRINTED = 4

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value.")]
Key = Annotated[
    str | None, typer.Option(help="The key of a command whose outcome is unknown, to repeat it: nothing is done twice.")
]
Result = TypeVar("Result")


class NotPrinted(Exception):
    """The command was carried out, and what it has to say cannot be written."""


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


def emit(value: BaseModel | Mapping[str, Any] | Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print a result: one JSON value, or a line for each member or row, whole however narrow the terminal is.

    Raises NotPrinted.
    """
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    write(json.dumps(plain) if as_json else _lines(plain))


def for_people(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same row with its sums as people write them; those of JSON stay in minor units."""
    currency = row.get("currency")
    if currency is None:
        return row
    sums = {name: written(sum_, currency) for name, sum_ in row.items() if name.endswith("_minor") and sum_ is not None}
    return {name.removesuffix("_minor"): sums.get(name, shown) for name, shown in row.items() if name != "currency"}


def write(text: str) -> None:
    """Write lines to the standard output, now. Raises NotPrinted."""
    try:
        print(text, flush=True)  # noqa: T201 - this is the command's output
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Else the interpreter's end fails as well.
        raise NotPrinted(f"it is done, but the result cannot be printed: {error.strerror}") from error


def warn(line: object) -> None:
    """Say something beside the result, in one line."""
    console(stderr=True).print(visible(line), style="yellow", soft_wrap=True)


def fail(reason: str, *, code: str = "failed", status: int = 1, details: str = "") -> NoReturn:
    """End the command with an error: one line, or a JSON object when the command was asked for JSON.

    `details` are lines for people below it, such as the end of a log.
    """
    with suppress(NotPrinted):
        if wants_json() and status != NOT_PRINTED:
            write(json.dumps({"error": {"code": code, "detail": "\n".join(filter(None, (reason, details)))}}))
            sys.exit(status)
    lines = [f"error: {visible(reason)}", *map(visible, details.splitlines())]
    console(stderr=True).print("\n".join(lines), style="red", soft_wrap=True)
    sys.exit(status)


def wants_json() -> bool:
    """Whether the command was asked for JSON, which must be known even when the rest of its words are wrong."""
    words = sys.argv[1:]
    return "--json" in (words[: words.index("--")] if "--" in words else words)


def _lines(plain: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> str:
    if isinstance(plain, Mapping):
        return _columns(
            [
                (name if n == 0 else "", line)
                for name, value in for_people(plain).items()
                for n, line in _numbered(value)
            ]
        )
    shown = [for_people(row) for row in plain]
    rows = [["; ".join(line for _, line in _numbered(value)) for value in row.values()] for row in shown]
    return _columns([list(shown[0]), *rows]) if shown else ""


def _numbered(value: Any) -> Iterator[tuple[int, str]]:
    """A value as lines with their numbers; a list has a line for each of its members."""
    lines = value if isinstance(value, list | tuple) else [value]
    return enumerate("" if each is None else visible(each) for each in lines or [""])


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
