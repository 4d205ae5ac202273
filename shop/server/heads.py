"""The heads of requests and answers as bytes."""

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import httptools
import msgspec

from shop.errors import BadRequest, ShopError
from shop.problem_json import MEDIA_TYPE, problem

Headers = Iterable[tuple[bytes, bytes]]

PLAIN_PATH = re.compile(rb"/[A-Za-z0-9/_.-]*")
HOST = re.compile(rb"([A-Za-z0-9._~!$&'()*+;=%-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{0,5})?")
NO_HOST = b"-"  # of a connection that has not sent a request yet
SCHEMES = frozenset({b"http", b"https"})
STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


def set_target(scope: dict[str, Any], url: bytes) -> None:
    """The path and the query of a request's target. Raises HttpParserInvalidURLError, or BadRequest."""
    if PLAIN_PATH.fullmatch(url):
        scope["path"], scope["raw_path"], scope["query_string"] = url.decode("ascii"), url, b""
        return
    parsed = httptools.parse_url(url)
    if parsed.schema is not None and (parsed.schema.lower() not in SCHEMES or not parsed.host or parsed.userinfo):
        raise BadRequest("The target is no http URL")
    raw_path = parsed.path or b"/"
    scope["path"], scope["raw_path"] = unquote(raw_path.decode("ascii")), raw_path
    scope["query_string"] = parsed.query or b""


def valid_host(value: bytes) -> bytes:
    """This value, if it is a host, with or without a port (RFC 3986, section 3.2). Raises BadRequest."""
    if not HOST.fullmatch(value):
        raise BadRequest("The Host is no host")
    return value


def answer_head(status: int, own: Headers, headers: Headers) -> bytes:
    """The status line and the headers, without the empty line; the server's `own` are replaced once a second.

    Raises ValueError when a value could end its line.
    """
    global _own
    if own is not _own[0]:
        _own = (own, _lines(own))
    return b"".join((STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status, _own[1], _lines(headers)))


# The server's own headers as they were last, and their lines.
_own: tuple[Headers, bytes] = ((), b"")


def _lines(headers: Headers) -> bytes:
    parts: list[bytes] = []
    for name, value in headers:
        parts += (name, b": ", value, b"\r\n")
    found, lines = b"".join(parts), len(parts) // 4
    if found.count(b"\n") != lines or found.count(b"\r") != lines or b"\0" in found:
        raise ValueError("a header has a line end in it")
    return found


def problem_answer(error: ShopError, own: Headers) -> bytes:
    """The whole answer that refuses what is no request of the shop, and closes."""
    request_id = uuid4().hex
    body = msgspec.json.encode(problem(error, instance="", request_id=request_id))
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode()),
        (b"connection", b"close"),
    ]
    return answer_head(error.status, own, headers) + b"\r\n" + body
