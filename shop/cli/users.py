"""`shop user …`"""

import getpass
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from shop.admin_events import record_admin_event
from shop.auth import COMMAND_LINE, issue_token
from shop.cli.output import Clients, Json, emit, run, write
from shop.users import repository, service
from shop.users.models import Role
from shop.users.passwords import Passwords
from shop.users.schemas import Registration

TOKENS_MAX = 1_000_000

app = typer.Typer(help="Accounts and tokens.", no_args_is_help=True)


@app.command(epilog="Example: shop user create --admin you@example.com")
def create(
    email: Annotated[str, typer.Argument(help="The e-mail address to sign in with.")],
    admin: Annotated[bool, typer.Option("--admin", help="Make an admin.")] = False,
    password: Annotated[
        str | None, typer.Option(envvar="SHOP_NEW_PASSWORD", help="Asked for when it is not given.")
    ] = None,
    json: Json = False,
) -> None:
    """Make an account."""
    chosen = password or _ask_password()
    new = Registration(email=email, password=chosen)

    async def work(clients: Clients) -> dict[str, str]:
        passwords = Passwords(clients.settings)
        async with clients.database.transaction() as session:
            user = await service.register(
                session, passwords, email=new.email, password=chosen, role=Role.ADMIN if admin else Role.SHOPPER
            )
            record_admin_event(
                session, COMMAND_LINE, action="user.create", subject="user", subject_id=user.id, role=user.role
            )
        passwords.close()
        return {"id": user.id, "email": user.email, "role": user.role}

    emit(run(work), as_json=json)


@app.command(epilog="Example: shop user tokens --count 1000 --output tokens.txt")
def tokens(
    count: Annotated[int, typer.Option(min=1, max=TOKENS_MAX, help="How many shoppers to make.")] = 10,
    output: Annotated[Path | None, typer.Option(help="A file for the lines; standard output if not given.")] = None,
    json: Json = False,
) -> None:
    """Make shoppers for a load test and print a line `user_id token` for each."""

    async def work(clients: Clients) -> list[dict[str, str]]:
        async with clients.database.transaction() as session:
            ids = await service.make_shoppers(session, count)
        return [
            {"user_id": user_id, "token": issue_token(clients.settings, user_id=user_id, role=Role.SHOPPER)}
            for user_id in ids
        ]

    # Opened first, so that nobody is made whose token cannot be written.
    file = None if output is None else os.fdopen(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w")
    made = run(work)
    lines = [f"{each['user_id']} {each['token']}" for each in made]
    if file is not None:
        with file:
            file.writelines(f"{line}\n" for line in lines)
    if json:
        emit(made, as_json=True)
    elif file is None:
        write("\n".join(lines))


@app.command(epilog="Example: shop user block somebody@example.com")
def block(
    user: Annotated[str, typer.Argument(help="The id or the e-mail address of the account.")],
    undo: Annotated[bool, typer.Option("--undo", help="Lift the block.")] = False,
    json: Json = False,
) -> None:
    """Refuse everything an account asks for; every process obeys within a second."""

    async def work(clients: Clients) -> dict[str, str | bool]:
        async with clients.database.transaction() as session:
            found = await repository.find_by_email(session, service.canonical_email(user)) if "@" in user else None
            user_id = found.id if found else user
            await service.set_blocked(session, COMMAND_LINE, user_id=user_id, blocked=not undo)
        return {"id": user_id, "blocked": not undo}

    emit(run(work), as_json=json)


def _ask_password() -> str:
    if not sys.stdin.isatty():
        raise typer.BadParameter("give --password or SHOP_NEW_PASSWORD when there is no terminal")
    return getpass.getpass("Password (10 characters or more): ")
