"""The `shop` command."""

import io
import os
import sys
from typing import Annotated

import typer
from typer._completion_classes import completion_init

from shop.cli.commands import Commands

EXAMPLES = """
Exit status: 0 done, 1 refused or failed, 2 wrong usage or settings, 3 a process of the API did not start, 4 done, but
the result cannot be printed, 130 interrupted. An error is one line, or with --json one JSON object.

Examples:

  shop demo                                     a whole flash sale on this machine, verified

  shop up                                       a shop to develop against; data in .shop/

  shop user create --admin you@example.com      the first admin

  shop product create "Golden Ticket" --price 990 --stock 1000

  shop sale create --product 1 --units 1000 --starts-in 60 --lasts 600

  shop sale schedule 1 && shop sale audit 1

  shop order trail ID                           everything that happened to one order
"""
COMPLETION_VARIABLE = "_SHOP_COMPLETE"

app = typer.Typer(
    name="shop",
    cls=Commands,
    help="A flash-sale backend that never oversells, and proves it.",
    epilog=EXAMPLES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"shop {version('shop')}")  # noqa: T201 - this is the command's output
        raise typer.Exit


@app.callback()
def shop(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Come before every command; there is nothing to do."""


def main() -> None:
    """Run the command; what goes wrong is one clear line, and never a traceback for what can be foreseen."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # A result that cannot be shown as it is, is shown escaped.
    if COMPLETION_VARIABLE in os.environ:
        completion_init()
    try:
        sys.exit(app(standalone_mode=False))
    except (typer.TyperException, typer.Abort) as error:
        from shop.cli.usage import tell

        tell(error)
    except Exception:
        from shop.cli.failures import told_in_a_line  # It knows the errors of every package, and imports it.

        with told_in_a_line():
            raise
