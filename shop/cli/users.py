"""`shop user …`"""

import getpass
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncSession

from shop.admin_events import record_admin_event
from shop.auth import COMMAND_LINE, issue_token
from shop.cli.clients import Clients, Result, run
from shop.cli.listing import AfterOption, BeforeOption, FromOption, LimitOption, query, show
from shop.cli.output import Json, emit, write
from shop.settings import get_settings
from shop.users import service
from shop.users.listing.schemas import UserAdminPage, UserQuery
from shop.users.listing.service import list_users
from shop.users.models import Role
from shop.users.passwords import Passwords
from shop.users.schemas import PasswordReset, Registration

TOKENS_MAX = 1_000_000
COLUMNS = ("id", "email", "role", "blocked_at", "created_at")
PASSWORD_PROMPT = "Password (10 characters or more): "  # noqa: S105 - what is asked, not what is answered

UserArgument = Annotated[str, typer.Argument(help="The id or the e-mail address of the account.")]

app = typer.Typer(help="Accounts and tokens.", no_args_is_help=True)


def add_to(shop: typer.Typer) -> None:
    """Register the commands of this module."""
    shop.add_typer(app, name="user")


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


@app.command(name="list", epilog="Example: shop user list --role admin")
def list_(
    role: Annotated[Role | None, typer.Option(help="Only accounts with this role.")] = None,
    blocked: Annotated[bool | None, typer.Option(help="Only blocked ones, or only others.")] = None,
    email: Annotated[str | None, typer.Option(help="The account with this address.")] = None,
    email_prefix: Annotated[str | None, typer.Option(help="Addresses that begin so, in their order.")] = None,
    created_from: FromOption = None,
    created_before: BeforeOption = None,
    limit: LimitOption = 20,
    starting_after: AfterOption = None,
    json: Json = False,
) -> None:
    """List all accounts, the newest first."""
    asked = query(
        UserQuery,
        role=role,
        blocked=blocked,
        email=email,
        email_prefix=email_prefix,
        created_from=created_from,
        created_before=created_before,
        limit=limit,
        starting_after=starting_after,
    )

    async def work(clients: Clients) -> UserAdminPage:
        async with clients.database.transaction() as session:
            return await list_users(session, asked)

    show(run(work), COLUMNS, as_json=json)


@app.command(epilog="Example: shop user block somebody@example.com")
def block(
    user: UserArgument,
    undo: Annotated[bool, typer.Option("--undo", help="Lift the block.")] = False,
    json: Json = False,
) -> None:
    """Refuse everything an account asks for; every process obeys within a second."""

    async def change(session: AsyncSession, user_id: str) -> dict[str, str | bool]:
        await service.set_blocked(session, COMMAND_LINE, user_id=user_id, blocked=not undo)
        return {"id": user_id, "blocked": not undo}

    emit(_with_user(user, change), as_json=json)


@app.command(epilog="Example: shop user role somebody@example.com admin")
def role(
    user: UserArgument,
    role: Annotated[Role, typer.Argument(help="What the account may do from now on.")],
    json: Json = False,
) -> None:
    """Give an account a role; tokens that name the one before end within a second."""

    async def change(session: AsyncSession, user_id: str) -> dict[str, str]:
        changed = await service.set_role(session, COMMAND_LINE, user_id=user_id, role=role)
        return {"id": changed.id, "email": changed.email, "role": changed.role}

    emit(_with_user(user, change), as_json=json)


@app.command(epilog="Example: shop user password somebody@example.com < new-password.txt")
def password(user: UserArgument, json: Json = False) -> None:
    """Give an account another password, asked for or read from standard input; its tokens end within a second."""
    chosen = getpass.getpass(PASSWORD_PROMPT) if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    new = PasswordReset(new_password=SecretStr(chosen)).new_password.get_secret_value()
    passwords = Passwords(get_settings())

    async def change(session: AsyncSession, user_id: str) -> dict[str, str]:
        await service.set_password(session, passwords, COMMAND_LINE, user_id, new)
        return {"id": user_id}

    emit(_with_user(user, change), as_json=json)
    passwords.close()


@app.command(name="sign-out", epilog="Example: shop user sign-out somebody@example.com")
def sign_out(user: UserArgument, json: Json = False) -> None:
    """End every token of an account within a second."""

    async def change(session: AsyncSession, user_id: str) -> dict[str, str]:
        await service.sign_out_everywhere(session, user_id, actor=COMMAND_LINE)
        return {"id": user_id}

    emit(_with_user(user, change), as_json=json)


def _with_user(user: str, change: Callable[[AsyncSession, str], Awaitable[Result]]) -> Result:
    """Do this in one transaction with the account of an id or an e-mail address. Raises UserNotFound."""

    async def work(clients: Clients) -> Result:
        async with clients.database.transaction() as session:
            return await change(session, await service.id_of(session, user))

    return run(work)


def _ask_password() -> str:
    if not sys.stdin.isatty():
        raise typer.BadParameter("give --password or SHOP_NEW_PASSWORD when there is no terminal")
    return getpass.getpass(PASSWORD_PROMPT)
