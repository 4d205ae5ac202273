"""The `shop` command."""

import io
import sys

import typer

from shop.cli import local, migrations, orders, payments, products, sales, sandbox, servers, users
from shop.cli.failures import told_in_a_line

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

app = typer.Typer(
    name="shop",
    help="A flash-sale backend that never oversells, and proves it.",
    epilog=EXAMPLES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
local.add_to(app)
servers.add_to(app)
migrations.add_to(app)
sandbox.add_to(app)
app.add_typer(users.app, name="user")
app.add_typer(products.app, name="product")
app.add_typer(sales.app, name="sale")
app.add_typer(orders.app, name="order")
app.add_typer(payments.app, name="payment")


def main() -> None:
    """Run the command; what goes wrong is one clear line, and never a traceback for what can be foreseen."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # A result that cannot be shown as it is, is shown escaped.
    with told_in_a_line():
        sys.exit(app(standalone_mode=False))
