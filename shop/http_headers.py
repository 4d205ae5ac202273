"""The headers of answers as the OpenAPI document has them, each said once; and which entity tags a request names."""

import re
from typing import Any

ENTITY_TAG = re.compile(r'(?:W/)?("[!#-~]*")')


def _header(description: str, example: str, *, always: bool = True, **schema: object) -> dict[str, Any]:
    described = {"description": description, "schema": {"type": "string", **schema}, "example": example}
    return {**described, "required": True} if always else described


HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-Id": _header("The id of the request, the client's own if it sent one.", "9f86d081884c7d65"),
    "Retry-After": _header("Seconds after which to ask again.", "2", pattern="^[0-9]+$"),
    "RateLimit": _header("The limit, what is left of it, and when there is more.", '"buy";r=0;t=2'),
    "RateLimit-Policy": _header("The limit: how many requests in how many seconds.", '"buy";q=10;w=2'),
    "WWW-Authenticate": _header("What kind of token is needed.", "Bearer"),
    "Location": _header("Where the thing is.", "/v1/orders/00000001-0000-8000-8000-000000000001"),
    "ETag": _header("The state that was answered, for `If-None-Match`.", '"2"'),
    "Age": _header("The seconds since the page was read, if it is old.", "3", always=False, pattern="^[0-9]+$"),
    "Cache-Control": _header("Who may keep the page, and for how long.", "public, no-cache"),
    "Link": _header("The next page, if there is one.", '</v1/orders?limit=20>; rel="next"', always=False),
    "Allow": _header("The methods of this path.", "GET, HEAD"),
    "Idempotency-Replayed": _header("An earlier request with this key did it.", "true", always=False, enum=["true"]),
    "Preference-Applied": _header("What was done of `Prefer`.", "wait=5", always=False),
}


def headers(*names: str) -> dict[str, Any]:
    """The `headers` of a response in the document."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def matches(if_none_match: str, tag: str) -> bool:
    """Whether an `If-None-Match` names this tag, by the weak comparison of RFC 9110 that it asks for."""
    return if_none_match.strip() == "*" or tag.removeprefix("W/") in ENTITY_TAG.findall(if_none_match)


UNCHANGED: dict[int | str, dict[str, Any]] = {
    304: {"description": "`If-None-Match` names the page that it still is.", "headers": headers("ETag", "Age")}
}
# A page that everybody may read and keep, in the document.
PUBLIC_PAGE: dict[int | str, dict[str, Any]] = {200: {"headers": headers("ETag", "Cache-Control", "Age")}, **UNCHANGED}
