"""The one place that turns a refusal into a problem document (RFC 9457), and tells OpenAPI of it."""

import re
from http import HTTPStatus
from typing import Any

import msgspec

from shop.errors import (
    BadRequest,
    BodyTooLarge,
    Forbidden,
    Invalid,
    Overloaded,
    ShopError,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
    UserBlocked,
)
from shop.http_headers import headers
from shop.problem_members import VIOLATION

PROBLEM_TYPE_BASE = "/errors/"  # a page of the API itself, so that a type can be opened
MEDIA_TYPE = "application/problem+json"
RETRYABLE_STATUSES = frozenset({429, 503, 504})
# The OpenAPI `responses` of a route, as FastAPI takes them.
Responses = dict[int | str, dict[str, Any]]
# How every route of admins may refuse, and every route that takes a body.
REFUSED_TO_OTHERS = (Unauthorized, Forbidden, UserBlocked, Invalid, Unavailable)
REFUSED_BODIES = (BadRequest, BodyTooLarge, UnsupportedMediaType)


def problem(error: ShopError, *, instance: str, request_id: str) -> dict[str, Any]:
    """The problem document of a refusal, as JSON-ready values."""
    return {
        "type": PROBLEM_TYPE_BASE + error.code,
        "title": error.title,
        "status": error.status,
        "code": error.code,
        "detail": error.detail or error.title,
        "instance": instance,
        "request_id": request_id,
        "retryable": error.status in RETRYABLE_STATUSES,
        **error.extra,
    }


def problem_body(error: ShopError, *, instance: str, request_id: str) -> bytes:
    """The same as it is sent."""
    return msgspec.json.encode(problem(error, instance=instance, request_id=request_id))


def kinds(of: type[ShopError] = ShopError) -> list[type[ShopError]]:
    """Every class of refusals, each before those that are a kind of it."""
    return [of, *(each for kind in of.__subclasses__() for each in kinds(kind))]


def refusals() -> dict[str, type[ShopError]]:
    """Every refusal by its code; of several with one code the most general."""
    found: dict[str, type[ShopError]] = {}
    for kind in kinds():
        found.setdefault(kind.code, kind)
    return found


def problem_of_code(code: str) -> ShopError | None:
    """The refusal with this code: the shop's own, or a bare HTTP status by its phrase (`bad_gateway`); else None."""
    if (known := refusals().get(code)) is not None:
        return known()
    for status in HTTPStatus:
        if status >= HTTPStatus.BAD_REQUEST and code == _code_of(status):
            error = ShopError()
            error.status, error.code, error.title = status.value, code, status.phrase
            return error
    return None


def problem_of_status(status: int, detail: str | None = None) -> ShopError:
    """A refusal for a bare HTTP status: the shop's own, if it has one of that name."""
    error = problem_of_code(_code_of(HTTPStatus(status)))
    assert error is not None  # noqa: S101 - only what refuses is asked for
    error.detail = detail
    return error


def _code_of(status: HTTPStatus) -> str:
    return "_".join(re.findall("[a-z]+", status.phrase.lower()))


PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "A refusal (RFC 9457). Its `type` opens: what it means, and what to do.",
    "required": ["type", "title", "status", "code", "detail", "instance", "request_id", "retryable"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "Stable: what a program decides by."},
        "detail": {"type": "string", "description": "What a person may read."},
        "instance": {"type": "string", "description": "The path of the request."},
        "request_id": {"type": "string"},
        "retryable": {"type": "boolean", "description": "Whether the same request may be answered otherwise later."},
    },
}


def problems(*errors: type[ShopError]) -> Responses:
    """The OpenAPI `responses` of a route that may refuse in these ways, one entry a status.

    What cannot be done while a server is away cannot be done either while too many wait for it (Overloaded). They refer
    to `problem_components`; the document shares those of different routes that are the same.
    """
    by_status: dict[int | str, list[type[ShopError]]] = {}
    implied: set[type[ShopError]] = {Overloaded} if Unavailable in errors else set()
    for error in sorted({*errors, *implied}, key=kinds().index):
        by_status.setdefault(error.status, []).append(error)
    return {status: _response(kinds) for status, kinds in by_status.items()}


def problem_components() -> dict[str, dict[str, Any]]:
    """The schemas and the examples of all refusals, by their names in the document."""
    known = kinds()
    typed = {_schema_name(kind): _typed(kind) for kind in known if kind.members}
    return {
        "schemas": {"Problem": PROBLEM, "Violation": VIOLATION, **typed},
        "examples": {kind.__name__: {"summary": kind.title, "value": _example(kind)} for kind in known},
    }


def _response(kinds: list[type[ShopError]]) -> dict[str, Any]:
    # What is typed stands first: the plain problem fits everything.
    names = sorted({_schema_name(kind) for kind in kinds}, key=lambda name: (name == "Problem", name))
    schemas = [{"$ref": f"#/components/schemas/{name}"} for name in names]
    examples = {kind.__name__: {"$ref": f"#/components/examples/{kind.__name__}"} for kind in kinds}
    told = [kind().headers.keys() for kind in kinds]
    return {
        "description": "; ".join(f"`{kind.code}`: {kind.title}" for kind in kinds),
        "headers": headers(*sorted(set.intersection(*map(set, told)))),
        "content": {
            MEDIA_TYPE: {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}, "examples": examples}
        },
    }


def _schema_name(kind: type[ShopError]) -> str:
    return f"{kind.__name__}Problem" if kind.members else "Problem"


def _typed(kind: type[ShopError]) -> dict[str, Any]:
    return {
        "description": kind.title + ".",
        "allOf": [
            {"$ref": "#/components/schemas/Problem"},
            {
                "type": "object",
                "required": ["code", *(member.name for member in kind.members if member.always)],
                "properties": {
                    "code": {"type": "string", "enum": [kind.code]},
                    **{member.name: dict(member.schema) for member in kind.members},
                },
            },
        ],
    }


def _example(kind: type[ShopError]) -> dict[str, Any]:
    extra = {member.name: member.example for member in kind.members}
    return {**problem(kind(), instance="/v1/…", request_id="01J…"), **extra}
