"""`shop api`, `worker`, `openapi`, `settings`: the processes and what they need to know.

Each command imports what it runs, so that none waits for the others.
"""

import asyncio
import json as jsonlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from shop import metrics
from shop.cli.output import Json, emit, fail, write
from shop.cli.unreachable import advice_for
from shop.database import Database
from shop.listening_sockets import inherited, listen, port_of
from shop.logs import configure_logs
from shop.metrics_page import serve_metrics
from shop.pool_sizes import PoolsTooLarge, compare_pools, of_api, of_worker
from shop.processes import START_FAILED
from shop.readiness import details, readiness_of
from shop.redis import all_scripts
from shop.settings import Settings, get_settings
from shop.settings.addresses import http_url

SERVING = ("postgres", "migrations", "redis", "durability")
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
    app.command(epilog=API_EPILOG)(api)
    app.command()(worker)
    app.command(name="settings", epilog="Example: shop settings --markdown > docs/configuration.md")(list_settings)
    app.command(epilog="Example: shop openapi > openapi.json")(openapi)


def api(
    processes: Annotated[
        int | None, typer.Option(min=1, max=64, help="How many share the work; default: SHOP_API_PROCESSES.")
    ] = None,
    fd: Annotated[list[int] | None, typer.Option(hidden=True, help="A listener that it was started with.")] = None,
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
    asyncio.run(require_ready(settings, SERVING, connections=of_api(settings), api_processes=count))
    from shop.app.processes import serve

    try:
        listeners = inherited(fd) if fd else listen(settings.api_host, settings.api_port, processes=count)
    except OSError as error:
        _not_listening("API", settings.api_host, settings.api_port, error, status=START_FAILED)
    with _metrics_of(count):
        _serve_metrics(settings, settings.metrics_port)
        if json:
            emit({"api": http_url(settings.api_host, port_of(listeners[0])), "processes": count}, as_json=True)
        status = serve(settings, listeners, processes=count)
    if status == START_FAILED:
        fail("a process of the API did not start", code="not_started", status=status)
    raise typer.Exit(status)


def worker(json: Json = False) -> None:
    """Record orders, follow the sales, expire holds."""
    from shop.worker import run_worker

    settings = get_settings()
    configure_logs(settings)
    asyncio.run(require_ready(settings, SERVING, connections=of_worker(settings)))
    _serve_metrics(settings, settings.worker_metrics_port)
    if json:
        emit({"worker": "running"}, as_json=True)
    asyncio.run(run_worker(settings))


def openapi(json: Json = False) -> None:
    """Print the OpenAPI document; it is JSON with and without `--json`."""
    from shop.app.factory import create_app

    document = create_app(Settings(environment="development")).fastapi.openapi()
    write(jsonlib.dumps(document, indent=None if json else 2, ensure_ascii=False))


def list_settings(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/configuration.md.")] = False,
    json: Json = False,
) -> None:
    """List every setting with its default and its meaning; the values in force are not shown."""
    rows = [
        {
            "variable": f"SHOP_{name.upper()}",
            "default": _default(field),
            "meaning": " ".join((field.description or "").split()),
        }
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


async def require_ready(
    settings: Settings, names: tuple[str, ...], *, connections: int = 0, api_processes: int | None = None
) -> None:
    """Fail before anything starts when a server that is needed cannot be used, and say whether the pools fit it.

    `connections` is how many one process of this command may open to Postgres; it fails if that can never be.
    """
    database = Database(settings, application_name="shop-preflight", pool_max=1)
    try:
        checks = await readiness_of(settings, database)
        if connections and checks["postgres"] is None:
            await compare_pools(database, settings, own=connections, api_processes=api_processes)
    except PoolsTooLarge as error:
        fail(str(error), code="pools_too_large")
    finally:
        await database.close()
    advice = {
        "postgres": f". {advice_for('SHOP_DATABASE_URL', settings.database_url)}",
        "redis": f". {advice_for('SHOP_REDIS_URL', settings.redis_url)}",
    }
    for name in names:
        if failing := checks[name]:
            fail(f"{name}: {failing.detail}{advice.get(name, '')}", code="not_ready")


def _serve_metrics(settings: Settings, port: int) -> None:
    if port == 0:
        return
    try:
        serve_metrics(settings.metrics_host, port, {"/readyz": partial(details, settings)})
    except OSError as error:
        _not_listening("metrics", settings.metrics_host, port, error)


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
