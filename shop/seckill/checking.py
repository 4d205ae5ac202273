"""What every purchase is checked for, once, before anybody is asked: media type, buyer, quantity and key.

Whoever else is answered before the application has its buyer checked here, too.
"""

import msgspec

from shop.auth import Identity, Revocations, TokenVerifier
from shop.errors import Unauthorized
from shop.idempotency.keys import parse_key
from shop.seckill.requests import PurchaseHeaders, parse_body, require_json


class Wish(msgspec.Struct, frozen=True, gc=False):
    """A well-formed purchase: so many units for this buyer, and the key by which a repeat is the same purchase."""

    user_id: str
    quantity: int
    key: str | None


class Checker:
    """Says what a purchase wishes, or what is wrong with it."""

    def __init__(self, verifier: TokenVerifier, revocations: Revocations) -> None:
        self._verifier = verifier
        self._revocations = revocations

    def identify(self, authorization: bytes) -> Identity:
        """Whose token an `Authorization` has, if that is still good. Raises Unauthorized, or UserBlocked."""
        if authorization[:7].lower() != b"bearer ":
            raise Unauthorized
        identity = self._verifier.verify(authorization[7:])
        self._revocations.check(identity)
        return identity

    def check(self, headers: PurchaseHeaders, body: bytes) -> Wish:
        """The wish, whichever sale it means, so that what is wrong with it has one answer. Raises a ShopError."""
        require_json(headers.media_type)
        identity = self.identify(headers.authorization)
        quantity = parse_body(body).quantity
        return Wish(
            identity.user_id, quantity, None if headers.key is None else parse_key(headers.key.decode("latin-1"))
        )
