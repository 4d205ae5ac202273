"""`shop demo`, `up` and `reset`: a whole shop on this machine, which needs nothing else."""

import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from shop.cli.output import Json, emit, warn, write
from shop.cli.unreachable import naming_servers, without_password
from shop.embedded.process import locked
from shop.embedded.valkey import SIDE
from shop.logs import configure_logs
from shop.settings import Settings, get_settings
from shop.terminal import visible

DATA = Path(".shop")
UNITS_MAX = 10_000_000
SHOPPERS_MAX = 200_000
CHECK_SECONDS = 0.2
NEXT_STEPS = """
A development shop, not for the internet. Next, in another terminal in this directory:

  . {environment}
  shop product create "Golden Ticket" --price 990 --stock 1000
  shop sale create --product 1 --units 1000 --starts-in 0
  shop sale schedule 1
  TOKEN=$(shop user tokens --count 1 | cut -d" " -f2)
  curl -X POST {api}/v1/seckill/sales/1/orders -H "Authorization: Bearer $TOKEN"

The README follows that order to its payment. Ctrl-C stops the shop, `shop reset` deletes its data.
"""


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command(epilog="Example: shop demo --units 1000 --shoppers 10000 --exit")(demo)
    app.command(epilog="Example: shop up --processes 2")(up)
    app.command()(reset)


def demo(
    units: Annotated[int, typer.Option(min=1, max=UNITS_MAX, help="Units on sale.")] = 1_000,
    shoppers: Annotated[int, typer.Option(min=1, max=SHOPPERS_MAX, help="Shoppers who want one each.")] = 10_000,
    processes: Annotated[int, typer.Option(min=1, max=64, help="API processes.")] = 2,
    connections: Annotated[int, typer.Option(min=1, max=10_000, help="Connections that the crowd shares.")] = 256,
    seed: Annotated[int, typer.Option(help="Decides who clicks twice and who hangs up.")] = 1,
    stay: Annotated[
        bool | None, typer.Option("--stay/--exit", help="Stay up afterwards; by default only with a terminal.")
    ] = None,
    json: Json = False,
) -> None:
    """Run a whole flash sale on this machine and prove that nothing was oversold, lost or doubled."""
    from shop.demo import DemoPlan, run_demo

    plan = DemoPlan(units=units, shoppers=shoppers, processes=processes, connections=connections, seed=seed)
    stays = sys.stdout.isatty() and not json if stay is None else stay
    if not run_demo(plan, _development_settings(), stay=stays, as_json=json):
        raise typer.Exit(1)


def up(
    processes: Annotated[int, typer.Option(min=1, max=64, help="API processes.")] = 1,
    json: Json = False,
) -> None:
    """Run a shop to develop against until Ctrl-C; its data stays in .shop/ and is found again."""
    from shop.local import local_shop

    settings = _development_settings()
    with (
        naming_servers(settings),
        local_shop(settings, DATA.absolute(), api_processes=processes, notice=warn) as shop,
    ):
        shown = {
            "api": shop.base_url,
            "docs": f"{shop.base_url}/docs",
            "metrics": shop.metrics_url,
            "provider": shop.provider_url,
            "database": without_password(shop.settings.database_url),
            "redis": without_password(shop.settings.redis_url),
            "environment": str(_write_environment(shop.directory, shop.settings)),
        }
        emit(shown, as_json=json)
        if not json:
            write(NEXT_STEPS.format(environment=shlex.quote(os.path.relpath(shown["environment"])), api=shop.base_url))
        wait_for_signal(shop.check)


def reset(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Delete the data of `shop up`; refused while it is up."""
    if not DATA.exists():
        emit({"deleted": False, "directory": str(DATA)}, as_json=json)
        return
    if json and not yes:
        raise typer.BadParameter("--json asks nothing: give --yes as well")
    if not yes and not typer.confirm(f"Delete everything in {visible(DATA.absolute())}?", err=True):
        raise typer.Exit(1)
    with locked(DATA), locked(DATA / "valkey"), locked(DATA / SIDE), locked(DATA / "postgres"):
        shutil.rmtree(DATA)
    emit({"deleted": True, "directory": str(DATA)}, as_json=json)


def wait_for_signal(check: Callable[[], None]) -> None:
    """Return at Ctrl-C or SIGTERM; meanwhile `check` again and again, which raises what ends the wait as well."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    while not stop.wait(CHECK_SECONDS):
        check()


def _development_settings() -> Settings:
    """The settings for a shop on this machine: a development secret will do, it is replaced by one of its own."""
    os.environ.setdefault("SHOP_ENVIRONMENT", "development")
    os.environ.setdefault("SHOP_LOG_FORMAT", "console")
    os.environ.setdefault("SHOP_LOG_LEVEL", "warning")
    settings = get_settings()
    configure_logs(settings)
    return settings


def _write_environment(directory: Path, settings: Settings) -> Path:
    """A file for `.`, so that other commands find the shop that is up, and the shell finds them."""
    file = directory / "environment"
    programs = str(Path(sys.executable).parent)
    lines = {
        "SHOP_ENVIRONMENT": settings.environment,
        "SHOP_DATABASE_URL": settings.database_url,
        "SHOP_REDIS_URL": settings.redis_url,
        "SHOP_CACHE_REDIS_URL": settings.side_redis_url,
        "SHOP_SECRET_KEY": settings.secret_key.get_secret_value(),
        "SHOP_API_PORT": str(settings.api_port),
    }
    file.touch(mode=0o600)
    exports = [f"export {name}={shlex.quote(value)}\n" for name, value in lines.items()]
    # This process may have been given a PATH (by `uv run`) that the shell which reads the file does not have.
    exports.append(f'export PATH={shlex.quote(programs)}:"$PATH"\n')
    file.write_text("".join(exports))
    return file
