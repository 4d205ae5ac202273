"""How commands speak: a few lines for people, one JSON value with `--json`; errors go to standard error."""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from shop.terminal import console, visible

if TYPE_CHECKING:
    from pydantic import BaseModel  # Wrong usage is told without it.

NOT_PRINTED = 4

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value.")]


class NotPrinted(Exception):
    """The command was carried out, and what it has to say cannot be written."""


def emit(value: "BaseModel | Mapping[str, Any] | Sequence[Mapping[str, Any]]", *, as_json: bool) -> None:
    """Print a result: one JSON value, or a line for each member or row, whole however narrow the terminal is.

    Raises NotPrinted.
    """
    plain = value if isinstance(value, Mapping | Sequence) else value.model_dump(mode="json")
    write(json.dumps(plain) if as_json else _lines(plain))


def for_people(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same row with its sums as people write them; those of JSON stay in minor units."""
    currency = row.get("currency")
    if currency is None:
        return row
    from shop.currencies import written

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
