"""The one place that turns a refusal into a problem document (RFC 9457), and tells OpenAPI of it."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from shop.errors import BadRequest, BodyTooLarge, Forbidden, Invalid, ShopError, Unauthorized, Unavailable, UserBlocked

PROBLEM_TYPE_BASE = "/errors/"  # a page of the API itself, so that a type can be opened
MEDIA_TYPE = "application/problem+json"
RETRYABLE_STATUSES = frozenset({429, 503, 504})
# How every route of admins may refuse, and every route that takes a body.
REFUSED_TO_OTHERS = (Unauthorized, Forbidden, UserBlocked, Invalid, Unavailable)
REFUSED_BODIES = (BadRequest, BodyTooLarge)


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


def refusals() -> dict[str, type[ShopError]]:
    """Every refusal by its code."""
    found: dict[str, type[ShopError]] = {}
    waiting = [ShopError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        found.setdefault(kind.code, kind)
    return found


def problem_of_status(status: int, detail: str | None = None) -> ShopError:
    """A refusal for a bare HTTP status: the shop's own, if it has one of that name; for the 405 of the router not."""
    phrase = HTTPStatus(status).phrase
    code = phrase.lower().replace(" ", "_")
    if (known := refusals().get(code)) is not None:
        return known(detail)
    error = ShopError(detail)
    error.status, error.code, error.title = status, code, phrase
    return error


PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "code", "request_id"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        **{name: {"type": "string"} for name in ("title", "code", "detail", "instance", "request_id")},
        "status": {"type": "integer"},
        "retryable": {"type": "boolean"},
    },
}


def problems(*errors: type[ShopError]) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI `responses` of a route that may refuse in these ways, one entry a status."""
    by_status: dict[int | str, list[type[ShopError]]] = {}
    for error in errors:
        by_status.setdefault(error.status, []).append(error)
    return {status: _response(kinds) for status, kinds in by_status.items()}


def _response(kinds: list[type[ShopError]]) -> dict[str, Any]:
    description = "; ".join(f"`{kind.code}`: {kind.title}" for kind in kinds)
    examples: Mapping[str, Any] = {
        kind.code: {"value": problem(kind(), instance="/v1/…", request_id="01J…")} for kind in kinds
    }
    return {"description": description, "content": {MEDIA_TYPE: {"schema": PROBLEM_SCHEMA, "examples": examples}}}
