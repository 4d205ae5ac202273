"""The one place where an exception becomes a problem document (RFC 9457)."""

from collections.abc import Mapping

import asyncpg
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from shop.app.methods import allowed_methods
from shop.connection_pool import NoConnectionFree, TooManyWaiting
from shop.database import UNAVAILABLE_ERRORS, CommitUnknown, is_unavailable, state_of
from shop.errors import (
    BadRequest,
    BodyTooLarge,
    IdempotencyKeyMissing,
    Invalid,
    Overloaded,
    ShopError,
    Unavailable,
    UnknownOutcome,
)
from shop.json_bodies import UNREADABLE
from shop.problem_json import MEDIA_TYPE, problem_body, problem_of_status
from shop.redis import CONNECTION_ERRORS, NotSent, OutcomeUnknown
from shop.validation_errors import violations

LOCK_NOT_AVAILABLE = "55P03"

log = structlog.get_logger(__name__)


def problem_response(
    error: ShopError, path: str, request_id: str, headers: Mapping[str, str] | None = None
) -> Response:
    """The response that a refusal becomes; `headers` in place of its own."""
    body = problem_body(error, instance=path, request_id=request_id)
    return Response(body, status_code=error.status, media_type=MEDIA_TYPE, headers=headers or error.headers)


def answer(error: ShopError, scope: Scope) -> Response:
    """The same for this request."""
    return problem_response(error, scope["path"], scope.get("request_id", ""))


async def send_problem(error: ShopError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with a refusal outside of FastAPI."""
    await answer(error, scope)(scope, receive, send)


def install(app: FastAPI) -> None:
    """Make every exception a problem; a server that is away is 503, and only what nobody foresaw is 500."""
    app.add_exception_handler(ShopError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(DBAPIError, _database)
    app.add_exception_handler(asyncpg.PostgresError, _database)
    app.add_exception_handler(CommitUnknown, _unknown)
    app.add_exception_handler(TooManyWaiting, _too_many_waiting)
    for kind in {*UNAVAILABLE_ERRORS, *CONNECTION_ERRORS, NotSent, OutcomeUnknown}:
        app.add_exception_handler(kind, _unavailable)
    app.add_exception_handler(Exception, _unforeseen)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ShopError)  # noqa: S101 - what the handler is registered for
    return answer(error, request.scope)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    found = error.errors()
    if (unreadable := request.scope.get(UNREADABLE)) is not None:
        return answer(unreadable, request.scope)
    missing = {each["loc"] for each in found if each["type"] == "missing"}
    if ("body",) in missing:
        return answer(BadRequest("The body is empty"), request.scope)
    if ("header", "Idempotency-Key") in missing:
        return answer(IdempotencyKeyMissing(), request.scope)
    return answer(Invalid(errors=violations(found)), request.scope)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    for kind in (BadRequest, BodyTooLarge):
        if error.status_code == kind.status:
            return answer(kind(str(error.detail)), request.scope)
    response = answer(problem_of_status(error.status_code, str(error.detail)), request.scope)
    response.headers.update(error.headers or {})
    if error.status_code == 405:
        response.headers["Allow"] = ", ".join(allowed_methods(request.scope, request.app.routes))
    return response


async def _database(request: Request, error: Exception) -> Response:
    if is_unavailable(error):
        return await _unavailable(request, error)
    return await _unforeseen(request, error)


async def _unknown(request: Request, error: Exception) -> Response:
    log.warning("commit_unknown", path=request.url.path, reason=repr(error)[:200])
    return answer(UnknownOutcome(), request.scope)


async def _unavailable(request: Request, error: Exception) -> Response:
    log.warning("server_away", path=request.url.path, reason=repr(error)[:200])
    return answer(_refusal_of(error), request.scope)


async def _too_many_waiting(request: Request, _: Exception) -> Response:
    # Not logged: there are thousands of them when there is one, and they are counted.
    return answer(Overloaded("Too many requests wait for the database; nothing was done"), request.scope)


def _refusal_of(error: Exception) -> ShopError:
    if state_of(error) == LOCK_NOT_AVAILABLE:
        return Unavailable("Another request has what this one needs locked; nothing was done")
    if isinstance(error, NoConnectionFree):
        return Unavailable("No connection to the database became free in time; nothing was done")
    return Unavailable()


async def _unforeseen(request: Request, error: Exception) -> Response:
    log.error("unforeseen", path=request.url.path, exc_info=error)
    return answer(ShopError(), request.scope)
