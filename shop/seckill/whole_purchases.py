"""Purchases that are complete in one read, and as plain as HTTP/1.1 can be: read from their bytes, without a parser.

A parser calls back for each header, and what it finds is made into a scope; for a purchase that costs more than its
signature. Everything unusual, and every doubt, is for the parser: what is read here, it would read in the same way.
"""

import re
from functools import lru_cache

import msgspec

from shop.errors import BadRequest
from shop.seckill.requests import (
    CONTENT_LENGTH,
    PATH_END,
    PATH_START,
    REQUEST_ID,
    SALE_ID,
    PurchaseHeaders,
    sale_in_path,
)
from shop.server.heads import HEADERS_MAX, valid_host

REQUEST_LINE = re.compile(rb"POST (%b%b%b) HTTP/1\.1" % (PATH_START.encode(), SALE_ID.encode(), PATH_END.encode()))
NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# A longer head is the parser's, so that little is remembered of the names that clients make up.
HEAD_BYTES_PLAIN_MAX = 8 * 1024
CONTROLS = bytes(set(range(0x20)) - set(b"\t")) + b"\x7f"
# What the headers of these names say is kept, in this order.
SAID = (
    b"host",
    b"content-length",
    b"connection",
    b"authorization",
    b"idempotency-key",
    b"content-type",
    b"x-request-id",
)
# Every other says nothing to the shop, or it is for the parser and the application.
OTHER, ODD = len(SAID), len(SAID) + 1
ODD_NAMES = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"prefer", b"origin", b"trailer", b"te"})
NAMES_MAX = 1024


class WholePurchase(msgspec.Struct, frozen=True, gc=False):
    """A purchase as it came; `path` is the one that it names, in ASCII."""

    sale_id: int
    path: str
    headers: PurchaseHeaders
    body: bytes


def whole_purchase(data: bytes) -> WholePurchase | None:
    """The purchase that these bytes are, the whole of it and nothing more; None in every doubt.

    Nothing but the form of the request is checked: neither who sends it nor what it wishes.
    """
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator or len(head) > HEAD_BYTES_PLAIN_MAX:
        return None
    line, *lines = head.split(b"\r\n")
    target = _target(line)
    # Of the controls there are only the line ends, each of which is whole.
    if target is None or len(lines) > HEADERS_MAX or len(head.translate(None, CONTROLS)) != len(head) - 2 * len(lines):
        return None
    values: list[bytes | None] = [None] * OTHER
    for each in lines:
        name, colon, value = each.partition(b":")
        field = _fields.get(name)
        if field is None:
            field = _field(name)
        if field < OTHER and colon and values[field] is None:
            values[field] = value.strip(b" \t")
        elif field != OTHER or not colon:
            return None
    host, length, connection, authorization, key, media_type, request_id = values
    if host is None or not _is_host(host) or not (connection is None or connection.lower() == b"keep-alive"):
        return None
    if length is None or not CONTENT_LENGTH.fullmatch(length) or int(length) != len(body):
        return None
    if not (request_id is None or REQUEST_ID.fullmatch(request_id)):
        return None
    return WholePurchase(*target, PurchaseHeaders(authorization or b"", key, media_type, request_id, None), body)


@lru_cache(maxsize=1024)
def _target(line: bytes) -> tuple[int, str] | None:
    """The sale and the path of a request line, if that is a purchase's."""
    named = REQUEST_LINE.fullmatch(line)
    path = "" if named is None else named[1].decode("ascii")
    sale_id = sale_in_path(path)
    return None if sale_id is None else (sale_id, path)


def _field(name: bytes) -> int:
    """What a header of this name says. It is remembered: clients write few names, each in one way."""
    lower = name.lower()
    field = ODD if lower in ODD_NAMES or not NAME.fullmatch(name) else SAID.index(lower) if lower in SAID else OTHER
    if len(_fields) < NAMES_MAX:
        _fields[name] = field
    return field


# What is said by the headers of the names that have come.
_fields: dict[bytes, int] = {}


@lru_cache(maxsize=1024)
def _is_host(value: bytes) -> bool:
    try:
        valid_host(value)
    except BadRequest:
        return False
    return True
