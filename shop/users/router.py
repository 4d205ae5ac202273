"""Accounts over HTTP: register, sign in, who am I; and for admins, block."""

from typing import Annotated

from fastapi import APIRouter, Form, Path, Request, Response

from shop.auth import ActorDep, CurrentUser, issue_token
from shop.database import SessionDep
from shop.errors import (
    BadRequest,
    BodyTooLarge,
    EmailTaken,
    Forbidden,
    Invalid,
    Overloaded,
    RateLimited,
    Unauthorized,
    Unavailable,
    UserBlocked,
    UserNotFound,
    WrongCredentials,
)
from shop.problem_json import problems
from shop.users import service
from shop.users.schemas import Credentials, Registration, Token, UserRead
from shop.users.throttle import throttle

UserId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$")]

router = APIRouter(prefix="/v1")

BLOCKING = problems(Unauthorized, Forbidden, UserBlocked, UserNotFound, Invalid, Unavailable)


@router.post(
    "/users",
    status_code=201,
    summary="Make an account",
    tags=["accounts"],
    responses=problems(BadRequest, EmailTaken, BodyTooLarge, Invalid, RateLimited, Overloaded, Unavailable),
)
async def register(new: Registration, request: Request, response: Response, session: SessionDep) -> UserRead:
    """Make an account."""
    await throttle(request, email=service.canonical_email(new.email))
    user = await service.register(
        session, request.app.state.passwords, email=new.email, password=new.password.get_secret_value()
    )
    response.headers["Location"] = "/v1/me"
    return UserRead.model_validate(user)


@router.post(
    "/auth/token",
    tags=["accounts"],
    responses=problems(
        BadRequest, WrongCredentials, UserBlocked, BodyTooLarge, Invalid, RateLimited, Overloaded, Unavailable
    ),
)
async def sign_in(form: Annotated[Credentials, Form()], request: Request, response: Response) -> Token:
    """Give a token for an e-mail address and a password."""
    state = request.app.state
    await throttle(request, email=service.canonical_email(form.username))
    user = await service.sign_in(
        state.database, state.passwords, email=form.username, password=form.password.get_secret_value()
    )
    # RFC 6749, section 5.1: nobody on the way may keep it.
    response.headers["Cache-Control"] = "no-store"
    return Token(
        access_token=issue_token(state.settings, user_id=user.id, role=user.role),
        expires_in=state.settings.token_lifetime_seconds,
    )


@router.get("/me", tags=["accounts"], responses=problems(Unauthorized, UserBlocked, UserNotFound, Unavailable))
async def read_me(user: CurrentUser, session: SessionDep) -> UserRead:
    """The account of the token."""
    return UserRead.model_validate(await service.account(session, user.user_id))


@router.post("/admin/users/{user_id}/block", status_code=204, tags=["admin"], responses=BLOCKING)
async def block_user(user_id: UserId, actor: ActorDep, session: SessionDep) -> None:
    """Refuse everything this account asks for; every process obeys within a second."""
    await service.set_blocked(session, actor, user_id=user_id, blocked=True)


@router.post("/admin/users/{user_id}/unblock", status_code=204, tags=["admin"], responses=BLOCKING)
async def unblock_user(user_id: UserId, actor: ActorDep, session: SessionDep) -> None:
    """Lift the block of this account."""
    await service.set_blocked(session, actor, user_id=user_id, blocked=False)
