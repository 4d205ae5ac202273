"""`shop migrate`: the schema goes up without a question, and down only when it is asked for twice."""

import asyncio
import sys
from typing import Annotated

import typer

from shop.cli.output import Json, emit, fail
from shop.cli.servers import require_ready
from shop.database import Database
from shop.migrating import Plan, UnknownRevision, UnknownRole, current_revision, grant_use, migrate, plan
from shop.migrating import running_processes as running
from shop.settings import Settings, get_settings

EPILOG = """
Examples:

  shop migrate                        to the newest revision of this release, with the shop running

  shop migrate --grant-to shop_app    the same as the schema's owner, for processes that run as shop_app
"""


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(name="migrate", epilog=EPILOG)(migrate_command)


def migrate_command(
    to: Annotated[
        str, typer.Option(help="A revision, `head`, `base` (empty), +N or -N. To an older one the schema goes down.")
    ] = "head",
    grant_to: Annotated[
        str | None, typer.Option(help="A role of Postgres that may then use, and not change, what is there.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Go down without asking: what is dropped is lost.")] = False,
    while_running: Annotated[bool, typer.Option("--while-running", help="Go down under a shop that runs.")] = False,
    json: Json = False,
) -> None:
    """Bring the database's schema to a revision."""
    settings = get_settings()
    asyncio.run(require_ready(settings, ("postgres",)))
    try:
        steps, busy = asyncio.run(_inspect(settings, to))
        if steps.goes_down:
            _ask(steps, busy, yes=yes, while_running=while_running)
        migrate(settings, steps.target, down=steps.goes_down)
        if grant_to is not None:
            asyncio.run(_grant(settings, grant_to))
    except UnknownRevision as error:
        fail(str(error), code="unknown_revision", status=2)
    except UnknownRole as error:
        fail(str(error), code="unknown_role", status=2)
    emit({"migrated": to}, as_json=json)


def _ask(steps: Plan, busy: list[str], *, yes: bool, while_running: bool) -> None:
    """Return when the schema may go down; else end the command."""
    if busy and not while_running:
        fail(f"the shop is running: {', '.join(busy)}. Stop it, or add --while-running", code="shop_running")
    what = f"from {steps.current} down to {steps.target}: tables and what is in them are dropped"
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{what}. Nobody can be asked here: add --yes", code="not_confirmed")
    if not typer.confirm(f"Go {what}?"):
        raise typer.Exit(1)


async def _inspect(settings: Settings, to: str) -> tuple[Plan, list[str]]:
    database = Database(settings, application_name="shop-cli", pool_max=1)
    try:
        async with database.transaction() as session:
            current = await current_revision(session)
            return plan(settings, to, current), await running(session, alive_seconds=settings.process_alive_seconds)
    finally:
        await database.close()


async def _grant(settings: Settings, role: str) -> None:
    database = Database(settings, application_name="shop-cli", pool_max=1)
    try:
        async with database.transaction() as session:
            await grant_use(session, role)
    finally:
        await database.close()
