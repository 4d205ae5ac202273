"""`shop demo`, `up`, `reset`, `api`, `worker`, `openapi`: the processes and their ground.

Each command imports what it runs, so that none waits for the others.
"""

import asyncio
import json as jsonlib
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from shop import metrics
from shop.cli.output import Json, emit, fail, write
from shop.cli.unreachable import advice_for
from shop.database import Database
from shop.embedded.process import locked
from shop.logs import configure_logs
from shop.pool_sizes import compare_pools
from shop.processes import START_FAILED
from shop.readiness import readiness
from shop.redis import all_scripts, connect
from shop.settings import DEVELOPMENT_SECRET, Settings, get_settings
from shop.terminal import console, visible

DATA = Path(".shop")
SERVING = ("postgres", "migrations", "redis", "durability")
UNITS_MAX = 10_000_000
SHOPPERS_MAX = 200_000
API_EPILOG = """
Exit status: 0 stopped when asked to, 1 a server or the metrics' port cannot be used, 2 wrong usage or settings, 3 the
API cannot listen or start, 130 ended at once.

Examples:

  shop api                        one process, settings from SHOP_… or .env

  SHOP_API_HOST=0.0.0.0 SHOP_API_PORT=8080 shop api --processes 4

  kill -HUP PID                   replace the processes one by one; no request fails
"""
CONFIGURATION_HEAD = """# Configuration

Every setting is a variable `SHOP_…` or a line of `.env`; its unit is the end of its name. This page is written by
`shop settings --markdown`.

| variable | default | meaning |
|---|---|---|
"""


def add_to(app: typer.Typer) -> None:
    """Register the commands of this module."""
    app.command(epilog="Example: shop demo --units 1000 --shoppers 10000 --exit")(demo)
    app.command(epilog="Example: shop up --processes 2")(up)
    app.command()(reset)
    app.command(epilog=API_EPILOG)(api)
    app.command()(worker)
    app.command(name="settings", epilog="Example: shop settings --markdown > docs/configuration.md")(list_settings)
    app.command(epilog="Example: shop openapi > openapi.json")(openapi)


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
    with local_shop(settings, DATA.absolute(), api_processes=processes) as shop:
        shown = {
            "api": shop.base_url,
            "docs": f"{shop.base_url}/docs",
            "metrics": shop.metrics_url,
            "provider": shop.provider_url,
            "database": shop.settings.database_url,
            "redis": shop.settings.redis_url,
            "environment": str(_write_environment(shop.directory, shop.settings)),
        }
        emit(shown, as_json=json)
        sys.stdout.flush()
        wait_for_signal()


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
    with locked(DATA / "valkey"), locked(DATA / "postgres"):
        shutil.rmtree(DATA)
    emit({"deleted": True, "directory": str(DATA)}, as_json=json)


def api(
    processes: Annotated[
        int | None, typer.Option(min=1, max=64, help="How many share the work; default: SHOP_API_PROCESSES.")
    ] = None,
    json: Json = False,
) -> None:
    """Serve the API, and its metrics on their own port, until SIGTERM or Ctrl-C.

    What was accepted is answered before it ends, for at most SHOP_GRACEFUL_STOP_SECONDS; a second Ctrl-C ends it at
    once. With several processes one that dies is replaced, and SIGHUP replaces all of them, one by one.
    """
    settings = get_settings()
    configure_logs(settings)
    all_scripts()
    count = processes or settings.api_processes
    asyncio.run(require_ready(settings, SERVING, api_processes=count))
    from shop.app.server import listen, serve

    try:
        listeners = listen(settings.api_host, settings.api_port, processes=count)
    except OSError as error:
        _not_listening("API", settings.api_host, settings.api_port, error, status=START_FAILED)
    with _metrics_of(count):
        _serve_metrics(settings.metrics_host, settings.metrics_port)
        if json:
            port = listeners[0].getsockname()[1]
            emit({"api": f"http://{settings.api_host}:{port}", "processes": count}, as_json=True)
            sys.stdout.flush()
        status = serve(settings, listeners, processes=count)
    if status == START_FAILED:
        fail("a process of the API did not start", code="not_started", status=status)
    raise typer.Exit(status)


def worker(json: Json = False) -> None:
    """Record orders, follow the sales, expire holds."""
    from shop.worker import run_worker

    settings = get_settings()
    configure_logs(settings)
    asyncio.run(require_ready(settings, SERVING))
    _serve_metrics(settings.metrics_host, settings.worker_metrics_port)
    if json:
        emit({"worker": "running"}, as_json=True)
    asyncio.run(run_worker(settings))


def openapi(json: Json = False) -> None:
    """Print the OpenAPI document; it is JSON with and without `--json`."""
    from shop.app import create_app

    document = create_app(Settings(environment="development")).fastapi.openapi()
    write(jsonlib.dumps(document, indent=None if json else 2))


def list_settings(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/configuration.md.")] = False,
    json: Json = False,
) -> None:
    """List every setting with its default and its meaning; the values in force are not shown."""
    rows = [
        {"variable": f"SHOP_{name.upper()}", "default": _default(field), "meaning": field.description or ""}
        for name, field in sorted(
            Settings.model_fields.items(), key=lambda item: item[0] not in Settings.__annotations__
        )
    ]
    if markdown:
        lines = [f"| `{row['variable']}` | {row['default']} | {row['meaning']} |" for row in rows]
        write(CONFIGURATION_HEAD + "\n".join(lines))
    else:
        emit(rows, as_json=json)


def _default(field: FieldInfo) -> str:
    if isinstance(field.default, SecretStr):
        return "none in production"
    return "" if field.default is None else str(field.default)


def wait_for_signal() -> None:
    """Return at Ctrl-C or SIGTERM."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()


async def require_ready(settings: Settings, names: tuple[str, ...], *, api_processes: int | None = None) -> None:
    """Fail before anything starts when a server that is needed cannot be used, and say whether the pools fit it."""
    database = Database(settings, application_name="shop-preflight", pool_max=1)
    ledger = connect(settings.redis_url, settings)
    try:
        checks = await readiness(database, ledger, settings)
        if names == SERVING and checks["postgres"] is None:
            await compare_pools(database, settings, api_processes=api_processes)
    finally:
        await database.close()
        await ledger.aclose(close_connection_pool=True)
    advice = {
        "postgres": f". {advice_for('SHOP_DATABASE_URL', settings.database_url)}",
        "redis": f". {advice_for('SHOP_REDIS_URL', settings.redis_url)}",
    }
    for name in names:
        if failing := checks[name]:
            fail(f"{name}: {failing.detail}{advice.get(name, '')}", code="not_ready")


def _serve_metrics(host: str, port: int) -> None:
    if port == 0:
        return
    try:
        metrics.serve_metrics(host, port)
    except OSError as error:
        _not_listening("metrics", host, port, error)


def _not_listening(what: str, host: str, port: int, error: OSError, *, status: int = 1) -> NoReturn:
    fail(f"the {what} cannot listen on {host}:{port}: {error.strerror}", code="not_started", status=status)


@contextmanager
def _metrics_of(processes: int) -> Iterator[None]:
    """Let several processes count together, in a directory that is gone afterwards unless it was named from outside."""
    if processes == 1 or metrics.MULTIPROCESS_VARIABLE in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="shop-metrics-", ignore_cleanup_errors=True) as directory:
        metrics.prepare_multiprocess(Path(directory))
        yield


def _development_settings() -> Settings:
    """The settings for a shop on this machine: a development secret will do, it is replaced by one of its own."""
    os.environ.setdefault("SHOP_ENVIRONMENT", "development")
    os.environ.setdefault("SHOP_LOG_FORMAT", "console")
    os.environ.setdefault("SHOP_LOG_LEVEL", "warning")
    settings = get_settings()
    configure_logs(settings)
    if settings.secret_key.get_secret_value() == DEVELOPMENT_SECRET:
        console(stderr=True).print("a development shop: not for the internet", style="dim")
    return settings


def _write_environment(directory: Path, settings: Settings) -> Path:
    """A file to `source`, so that other commands find the shop that is up."""
    file = directory / "environment"
    lines = {
        "SHOP_ENVIRONMENT": settings.environment,
        "SHOP_DATABASE_URL": settings.database_url,
        "SHOP_REDIS_URL": settings.redis_url,
        "SHOP_SECRET_KEY": settings.secret_key.get_secret_value(),
        "SHOP_API_PORT": str(settings.api_port),
    }
    file.touch(mode=0o600)
    file.write_text("".join(f"export {name}='{value}'\n" for name, value in lines.items()))
    return file
