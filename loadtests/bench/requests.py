"""The requests of a round, ready to be sent: each with a token and an Idempotency-Key of its own."""

import base64
import hmac
import re
from collections.abc import Iterator, Sequence
from uuid import UUID

import msgspec

from loadtests.client.http import Address
from loadtests.client.purchases import purchase_request
from shop.ledger.order_ids import keyed_order_id, uuid_text

USER_ID_CHARACTERS = 12  # as long as the shop's own
KEY_CHARACTERS = 36  # as long as a UUID
# What stands in the one request that all others are made of.
TOKEN, KEY, PATH = "a token", "a key", "/a/path"


class Shoppers(msgspec.Struct, frozen=True, kw_only=True):
    """`count` users who exist nowhere but in their tokens; the same name and issue time make the same requests.

    `name` is at most 5 letters and digits.
    """

    name: str
    count: int
    secret: str
    issuer: str
    audience: str
    issued_at: int
    lifetime_seconds: int = 3600


class PolledOrders(msgspec.Struct, frozen=True, kw_only=True):
    """The first so many orders of the shoppers of a round, whose tokens were issued at this time."""

    sale_id: int
    salt: bytes
    orders: int
    issued_at: int


def user_id(name: str, number: int) -> str:
    """The `number`-th of these users."""
    return f"{name}{number:0{USER_ID_CHARACTERS - len(name)}d}"


def idempotency_key(name: str, number: int) -> str:
    """The key that this buyer sends."""
    return f"{name}{number:0{KEY_CHARACTERS - len(name)}d}"


def purchase_requests(shoppers: Shoppers, *, host: str, port: int, path: str) -> list[bytes]:
    """One purchase of one unit by each shopper. It costs about 5 µs a request."""
    request = purchase_request(Address(host, port), path, token=TOKEN, key=KEY).decode()
    before, between, after = (part.encode() for part in re.split(f"{TOKEN}|{KEY}", request))
    requests = []
    for number, token in enumerate(tokens(shoppers)):
        key = idempotency_key(shoppers.name, number).encode()
        requests.append(b"%b%b%b%b%b" % (before, token, between, key, after))
    return requests


def tokens(shoppers: Shoppers) -> Iterator[bytes]:
    """The token of each shopper."""
    issued = f'"iat":{shoppers.issued_at},"exp":{shoppers.issued_at + shoppers.lifetime_seconds}'
    claims = f'","role":"shopper","iss":"{shoppers.issuer}","aud":"{shoppers.audience}",{issued}}}'
    header, secret = _encoded(b'{"alg":"HS256","typ":"JWT"}') + b".", shoppers.secret.encode()
    for number in range(shoppers.count):
        signed = header + _encoded(f'{{"sub":"{user_id(shoppers.name, number)}{claims}'.encode())
        yield b"%b.%b" % (signed, _encoded(hmac.digest(secret, signed, "sha256")))


def poll_requests(
    shoppers: Shoppers, polled: PolledOrders, *, host: str, port: int, known_tag: str | None
) -> list[bytes]:
    """One poll by the shopper of each of these orders."""
    owners = msgspec.structs.replace(shoppers, count=polled.orders, issued_at=polled.issued_at)
    known = {"If-None-Match": known_tag} if known_tag else {}
    headers = {"Accept": "application/json", "Authorization": f"Bearer {TOKEN}"} | known
    request = Address(host, port).request("GET", f"/v1/orders/{KEY}", headers=headers)
    (before, between, after) = re.split(f"{TOKEN}|{KEY}".encode(), request)
    requests = []
    for number, token in enumerate(tokens(owners)):
        key = idempotency_key(owners.name, number)
        order_id = keyed_order_id(polled.sale_id, polled.salt, user_id(owners.name, number), key)
        requests.append(b"%b%b%b%b%b" % (before, uuid_text(order_id).encode(), between, token, after))
    return requests


def page_request(*, host: str, port: int, path: str, known_tag: str | None) -> bytes:
    """One read of a page."""
    headers = {"Accept": "application/json"} | ({"If-None-Match": known_tag} if known_tag else {})
    return Address(host, port).request("GET", path, headers=headers)


def stream_requests(shoppers: Shoppers, *, host: str, port: int, order_ids: Sequence[UUID]) -> list[bytes]:
    """One event stream by each shopper: shopper i follows order i."""
    head = Address(host, port).request("GET", PATH, headers={"Authorization": f"Bearer {TOKEN}"}).decode()
    before, between, after = (part.encode() for part in re.split(f"{PATH}|{TOKEN}", head))
    return [
        b"%b/v1/orders/%b/events%b%b%b" % (before, str(order_id).encode(), between, token, after)
        for order_id, token in zip(order_ids, tokens(shoppers), strict=True)
    ]


def _encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
