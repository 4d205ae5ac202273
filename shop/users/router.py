"""Accounts over HTTP: register, sign in and out, another password; and for admins, roles and blocks."""

from typing import Annotated

from fastapi import APIRouter, Form, Path, Request, Response

from shop.app_keys import SETTINGS, AppKey
from shop.auth import ActorDep, CurrentAdmin, CurrentUser, issue_token
from shop.errors import (
    EmailTaken,
    Invalid,
    LastAdmin,
    Overloaded,
    RateLimited,
    Unauthorized,
    Unavailable,
    UserBlocked,
    UserNotFound,
    WrongCredentials,
    WrongPassword,
)
from shop.json_bodies import JsonRoute
from shop.problem_json import REFUSED_BODIES, REFUSED_TO_OTHERS, problems
from shop.request_session import DATABASE, SessionDep
from shop.users import service
from shop.users.models import User
from shop.users.passwords import Passwords
from shop.users.schemas import (
    Credentials,
    PasswordChange,
    Registration,
    RoleChange,
    Token,
    UserAdminRead,
    UserRead,
)
from shop.users.throttle import throttle

UserId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$")]

PASSWORDS = AppKey[Passwords]("passwords")

router = APIRouter(prefix="/v1", route_class=JsonRoute)

OF_A_USER = problems(*REFUSED_TO_OTHERS, UserNotFound)
OF_AN_ADMIN = problems(*REFUSED_TO_OTHERS, UserNotFound, LastAdmin)


@router.post(
    "/users",
    status_code=201,
    summary="Make an account",
    tags=["accounts"],
    responses=problems(*REFUSED_BODIES, EmailTaken, Invalid, RateLimited, Overloaded, Unavailable),
)
async def register(new: Registration, request: Request, response: Response, session: SessionDep) -> UserRead:
    """Make an account."""
    await throttle(request, email=service.canonical_email(new.email))
    user = await service.register(
        session, PASSWORDS.of(request), email=new.email, password=new.password.get_secret_value()
    )
    response.headers["Location"] = "/v1/me"
    return UserRead.model_validate(user)


@router.post(
    "/auth/token",
    tags=["accounts"],
    responses=problems(*REFUSED_BODIES, WrongCredentials, UserBlocked, Invalid, RateLimited, Overloaded, Unavailable),
)
async def sign_in(form: Annotated[Credentials, Form()], request: Request, response: Response) -> Token:
    """Give a token for an e-mail address and a password."""
    await throttle(request, email=service.canonical_email(form.username))
    user = await service.sign_in(
        DATABASE.of(request), PASSWORDS.of(request), email=form.username, password=form.password.get_secret_value()
    )
    return _token(user, request, response)


@router.post(
    "/auth/sign-out-everywhere",
    status_code=204,
    tags=["accounts"],
    responses=problems(Unauthorized, UserBlocked, UserNotFound, Unavailable),
)
async def sign_out_everywhere(user: CurrentUser, session: SessionDep) -> None:
    """End every token of this account, the one of this request too; every process obeys within a second."""
    await service.sign_out_everywhere(session, user.user_id)


@router.get("/me", tags=["accounts"], responses=problems(Unauthorized, UserBlocked, UserNotFound, Unavailable))
async def read_me(user: CurrentUser, session: SessionDep) -> UserRead:
    """The account of the token."""
    return UserRead.model_validate(await service.account(session, user.user_id))


@router.post(
    "/me/password",
    tags=["accounts"],
    responses=problems(
        *REFUSED_BODIES,
        Unauthorized,
        UserBlocked,
        WrongPassword,
        UserNotFound,
        Invalid,
        RateLimited,
        Overloaded,
        Unavailable,
    ),
)
async def change_password(change: PasswordChange, user: CurrentUser, request: Request, response: Response) -> Token:
    """Change the password and end every other token of this account within a second; here is a new one.

    A try counts as one to sign in.
    """
    database = DATABASE.of(request)
    async with database.transaction() as session:
        account = await service.account(session, user.user_id)
    await throttle(request, email=account.email)
    changed = await service.change_password(
        database,
        PASSWORDS.of(request),
        account,
        current=change.current_password.get_secret_value(),
        new=change.new_password.get_secret_value(),
    )
    return _token(changed, request, response)


@router.get("/admin/users/{user_id}", tags=["admin"], responses=OF_A_USER)
async def read_user(user_id: UserId, admin: CurrentAdmin, session: SessionDep) -> UserAdminRead:
    """One account."""
    return UserAdminRead.model_validate(await service.account(session, user_id))


@router.post("/admin/users/{user_id}/block", status_code=204, tags=["admin"], responses=OF_AN_ADMIN)
async def block_user(user_id: UserId, actor: ActorDep, session: SessionDep) -> None:
    """Refuse everything this account asks for; every process obeys within a second."""
    await service.set_blocked(session, actor, user_id=user_id, blocked=True)


@router.post("/admin/users/{user_id}/unblock", status_code=204, tags=["admin"], responses=OF_A_USER)
async def unblock_user(user_id: UserId, actor: ActorDep, session: SessionDep) -> None:
    """Lift the block of this account."""
    await service.set_blocked(session, actor, user_id=user_id, blocked=False)


@router.post(
    "/admin/users/{user_id}/role",
    tags=["admin"],
    responses=problems(*REFUSED_TO_OTHERS, *REFUSED_BODIES, UserNotFound, LastAdmin),
)
async def set_role(user_id: UserId, change: RoleChange, actor: ActorDep, session: SessionDep) -> UserAdminRead:
    """Give this account a role, and end the tokens that name the one before within a second."""
    return UserAdminRead.model_validate(await service.set_role(session, actor, user_id=user_id, role=change.role))


@router.post("/admin/users/{user_id}/sign-out", status_code=204, tags=["admin"], responses=OF_A_USER)
async def sign_user_out(user_id: UserId, actor: ActorDep, session: SessionDep) -> None:
    """End every token of this account; every process obeys within a second."""
    await service.sign_out_everywhere(session, user_id, actor=actor)


def _token(user: User, request: Request, response: Response) -> Token:
    settings = SETTINGS.of(request)
    # RFC 6749, section 5.1: nobody on the way may keep it.
    response.headers["Cache-Control"] = "no-store"
    return Token(
        access_token=issue_token(settings, user_id=user.id, role=user.role, generation=user.token_generation),
        expires_in=settings.token_lifetime_seconds,
    )
