"""The heads of requests and answers as bytes."""

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import httptools
import msgspec

from shop.errors import ShopError
from shop.problem_json import MEDIA_TYPE, problem

Headers = Iterable[tuple[bytes, bytes]]

PLAIN_PATH = re.compile(rb"/[A-Za-z0-9/_.-]*")
STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


def set_target(scope: dict[str, Any], url: bytes) -> None:
    """The path and the query of a request's target. Raises HttpParserInvalidURLError."""
    if PLAIN_PATH.fullmatch(url):
        scope["path"], scope["raw_path"], scope["query_string"] = url.decode("ascii"), url, b""
        return
    parsed = httptools.parse_url(url)
    raw_path = parsed.path or b"/"
    scope["path"], scope["raw_path"] = unquote(raw_path.decode("ascii")), raw_path
    scope["query_string"] = parsed.query or b""


def answer_head(status: int, own: Headers, headers: Headers) -> bytes:
    """The status line and the headers, without the empty line. Raises ValueError when a value could end its line."""
    parts = [STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
    for name, value in (*own, *headers):
        parts += (name, b": ", value, b"\r\n")
    head = b"".join(parts)
    lines = len(parts) // 4 + 1
    if head.count(b"\n") != lines or head.count(b"\r") != lines or b"\0" in head:
        raise ValueError("a header has a line end in it")
    return head


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
