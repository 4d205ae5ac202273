"""What a purchase may look like: path, headers, body. Everything is checked before it comes near a script."""

import itertools
import os
import re
from functools import lru_cache
from typing import Annotated

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.types import Message, Receive, Scope

from shop.errors import BadRequest, BodyTooLarge, Invalid, ShopError, UnsupportedMediaType
from shop.json_bodies import read_json
from shop.ledger.order_ids import SALE_ID_MAX
from shop.server.answers import JSON
from shop.validation_errors import violations

QUANTITY_MAX = 10_000
PATH_START, PATH_END = "/v1/seckill/sales/", "/orders"
SALE_ID_DIGITS_MAX = 10
# As the shop writes an id itself (`shop.bounds.Digits`): another way to write it names no sale.
SALE_ID = r"(?:0|[1-9][0-9]{0,9})"
PATH_CHARS_MAX = len(PATH_START) + SALE_ID_DIGITS_MAX + len(PATH_END)
CONTENT_LENGTH = re.compile(rb"[0-9]{1,18}")
REQUEST_ID = re.compile(rb"[A-Za-z0-9_.:-]{1,128}")
PURCHASE_START = b"POST " + PATH_START.encode()
PATH = re.compile(f"{PATH_START}({SALE_ID}){PATH_END}")


class ClientGone(Exception):
    """The client closed the connection before its request was complete."""


class PurchaseHeaders(msgspec.Struct, frozen=True, gc=False):
    """The values of a purchase's headers as they came; None for one that is not there."""

    authorization: bytes
    key: bytes | None
    media_type: bytes | None
    request_id: bytes | None
    prefer: bytes | None


class RequestIds:
    """Ids for the requests that bring none: what this process drew, and a number."""

    def __init__(self) -> None:
        self._prefix = os.urandom(8).hex().encode()
        self._numbers = itertools.count(1)

    def new(self) -> bytes:
        """One that no other request has."""
        return b"%b-%x" % (self._prefix, next(self._numbers))


class PurchaseBody(msgspec.Struct, forbid_unknown_fields=True):
    """How many units the buyer wants."""

    quantity: Annotated[int, msgspec.Meta(ge=1, le=QUANTITY_MAX)] = 1


class PurchaseRequest(BaseModel):
    """How many units the buyer wants; what the lane's own reader refuses is explained by this one."""

    model_config = ConfigDict(extra="forbid")

    quantity: Annotated[int, Field(strict=True, ge=1, le=QUANTITY_MAX)] = 1


_body_decoder = msgspec.json.Decoder(PurchaseBody)


def sale_in_path(path: str) -> int | None:
    """The sale that a purchase path names; None for any other path."""
    return _sale_in_path(path) if len(path) <= PATH_CHARS_MAX else None


@lru_cache(maxsize=4096)
def _sale_in_path(path: str) -> int | None:
    named = PATH.fullmatch(path)
    sale_id = int(named[1]) if named else SALE_ID_MAX + 1
    return sale_id if sale_id <= SALE_ID_MAX else None


def parse_body(body: bytes) -> PurchaseBody:
    """The wish. Raises BadRequest when it is not JSON, Invalid when it breaks a rule."""
    try:
        return _body_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _what_is_wrong_with(body) from error


def _what_is_wrong_with(body: bytes) -> ShopError:
    """What every other route says of such a body."""
    try:
        PurchaseRequest.model_validate(read_json(body))
    except BadRequest as error:
        return error
    except ValidationError as error:
        return Invalid(errors=violations(error.errors()))
    return Invalid()


def purchase_headers(scope: Scope) -> PurchaseHeaders:
    """What a purchase's headers say.

    Of two headers of one name the first counts, as on the other routes; two media types are none that a body has.
    """
    authorization, key, media_type, request_id, prefer = None, None, None, None, None
    for name, value in scope["headers"]:
        if name == b"authorization":
            authorization = value if authorization is None else authorization
        elif name == b"idempotency-key":
            key = value if key is None else key
        elif name == b"content-type":
            media_type = value if media_type is None else media_type + b"," + value
        elif name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            request_id = value
        elif name == b"prefer":
            prefer = value if prefer is None else prefer + b"," + value
    return PurchaseHeaders(authorization or b"", key, media_type, request_id, prefer)


def require_json(media_type: bytes | None) -> None:
    """Raises UnsupportedMediaType."""
    if media_type is not None and media_type != JSON and media_type.partition(b";")[0].strip().lower() != JSON:
        raise UnsupportedMediaType("The body must be application/json")


async def read_body(receive: Receive, bytes_max: int) -> bytes:
    """The whole body. Raises BodyTooLarge, or ClientGone."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        body = body + chunk if body else chunk
        if len(body) > bytes_max:
            raise BodyTooLarge(f"A purchase has at most {bytes_max} bytes")
        if not message.get("more_body", False):
            return body


def replay(body: bytes, receive: Receive) -> Receive:
    """The request's body once more, for the route behind."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again
