"""The `shop` command. Exit status: 0 done, 1 refused or failed, 2 wrong usage or wrong settings."""

import typer
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError

from shop.cli import orders, products, sales, sandbox, servers, users
from shop.cli.output import fail
from shop.database import UNAVAILABLE_ERRORS, is_unavailable
from shop.embedded import ServerUnavailable
from shop.errors import ShopError
from shop.local import NotStarted
from shop.redis import CONNECTION_ERRORS, NotSent, OutcomeUnknown, ScriptMissing

EXAMPLES = """
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
servers.add_to(app)
sandbox.add_to(app)
app.add_typer(users.app, name="user")
app.add_typer(products.app, name="product")
app.add_typer(sales.app, name="sale")
app.add_typer(orders.app, name="order")


def main() -> None:
    """Run the command; what goes wrong is one clear line, and never a traceback for what can be foreseen."""
    try:
        app()  # which shows wrong usage itself, and ends with the status of `typer.Exit`
    except ValidationError as error:
        reasons = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'settings'}: {each['msg']}" for each in error.errors()
        )
        fail(reasons, code="invalid", status=2)
    except ShopError as error:
        fail(f"{error.title}: {error.detail}" if error.detail else error.title, code=error.code)
    except (ServerUnavailable, NotStarted, ScriptMissing, FileNotFoundError) as error:
        fail(str(error), code="not_started")
    except (NotSent, OutcomeUnknown, *CONNECTION_ERRORS, *UNAVAILABLE_ERRORS, DBAPIError) as error:
        if isinstance(error, DBAPIError) and not is_unavailable(error):
            raise
        fail(
            f"a server cannot be reached: {str(error).splitlines()[0] if str(error) else repr(error)}",
            code="unavailable",
        )
