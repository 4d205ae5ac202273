"""The heads of requests as they are read, and the heads of answers as bytes."""

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import httptools

from shop.errors import BadRequest, HeadTooLarge, ShopError
from shop.problem_json import MEDIA_TYPE, problem_body
from shop.server.answers import Answer, WholeAnswer

Headers = Iterable[tuple[bytes, bytes]]

HEAD_BYTES_MAX = 32 * 1024
HEADERS_MAX = 100
PLAIN_PATH = re.compile(rb"/[A-Za-z0-9/_.-]*")
HOST = re.compile(rb"([A-Za-z0-9._~!$&'()*+;=%-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{0,5})?")
NO_HOST = b"-"  # of a connection that has not sent a request yet
SCHEMES = frozenset({b"http", b"https"})
STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class Head:
    """The head of the request that a connection reads; the parser calls `on_url` and `on_header` for its parts."""

    __slots__ = ("_bytes", "_codings", "_headers", "_hosts", "_url", "expects_continue", "host")

    def __init__(self) -> None:
        self.host = NO_HOST
        self.begin()

    def begin(self) -> None:
        """Another request begins. The last one's `host` is remembered: this one's is most likely the same."""
        self._url = b""
        # None when the head is complete: what is called a header then is a trailer, and is not kept.
        self._headers: list[tuple[bytes, bytes]] | None = []
        self._bytes = self._hosts = self._codings = 0
        # Whether the client waits to be told that its body is wanted.
        self.expects_continue = False

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Raises HeadTooLarge, or BadRequest."""
        self._bytes += len(name) + len(value)
        headers = self._headers
        if self._bytes > HEAD_BYTES_MAX or (headers is not None and len(headers) >= HEADERS_MAX):
            raise HeadTooLarge
        if headers is None:
            return
        name, value = name.lower(), value.rstrip(b" \t")
        headers.append((name, value))
        if name == b"host":
            self._hosts += 1
            if value != self.host:
                self.host = valid_host(value)
        elif name == b"expect":
            self.expects_continue = self.expects_continue or value.lower() == b"100-continue"
        elif name == b"transfer-encoding":
            # Another coding before it, or a second field, is read differently by different parsers (RFC 9112, 6.1).
            self._codings += 1
            if self._codings > 1 or value.lower() != b"chunked":
                raise BadRequest("The only transfer coding is chunked")

    def complete(self, scope: dict[str, Any]) -> None:
        """Hand target and headers over to a scope. Raises HttpParserInvalidURLError, or BadRequest."""
        if self._hosts != 1 and (self._hosts or scope["http_version"] == "1.1"):
            raise BadRequest("A request has one Host")
        set_target(scope, self._url)
        scope["headers"], self._headers = self._headers, None


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
    return answer_start(status, own) + _lines(headers)


def answer_start(status: int, own: Headers) -> bytes:
    """The status line and the server's `own` headers."""
    global _own
    if own is not _own[0]:
        _own = (own, _lines(own))
    return (STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status) + _own[1]


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


def whole_answer(answer: Answer) -> WholeAnswer:
    """An answer as bytes. Raises ValueError when a value could end its line."""
    return WholeAnswer(answer.status, b"%b\r\n%b" % (_lines(answer.headers), answer.body))


def problem_answer(error: ShopError, own: Headers) -> bytes:
    """The whole answer that refuses what is no request of the shop, and closes."""
    request_id = uuid4().hex
    body = problem_body(error, instance="", request_id=request_id)
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode()),
        (b"connection", b"close"),
    ]
    return answer_head(error.status, own, headers) + b"\r\n" + body
