"""Signed statements of the shop: a receipt says what was promised, a witness says why nothing was.

Both are `<base64url of JSON>.<base64url of HMAC>`; the HMAC is BLAKE2b-128 under a key derived from the secret.
"""

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from typing import TypeVar

import msgspec

SIGNATURE_BYTES = 16
STATEMENT_CHARACTERS_MAX = 1024


class Receipt(msgspec.Struct, frozen=True):
    """One accepted reservation: with it, a client can claim an order that Redis has lost."""

    order_id: str
    sale_id: int
    epoch: int
    seq: int
    user_id: str
    quantity: int
    reserved_ms: int


class Witness(msgspec.Struct, frozen=True):
    """One refusal: `seq` is the ledger's sequence number at which it was decided."""

    code: str
    sale_id: int
    epoch: int
    seq: int
    at_ms: int


class Forged(ValueError):
    """The statement was not signed by this shop, or it is of another kind."""


Statement = TypeVar("Statement", Receipt, Witness)


class Signer:
    """Signs and reads the statements of one shop."""

    def __init__(self, secret: bytes) -> None:
        self._keys = {
            kind: hashlib.blake2b(secret, person=kind.__name__.encode(), digest_size=32).digest()
            for kind in (Receipt, Witness)
        }

    def receipt(
        self, *, order_id: str, sale_id: int, epoch: int, seq: int, user_id: str, quantity: int, reserved_ms: int
    ) -> str:
        """`sign(Receipt(…))`, written without the detour over the value: every purchase needs one.

        The values are checked before: none holds a character that JSON would escape.
        """
        payload = urlsafe_b64encode(
            f'{{"order_id":"{order_id}","sale_id":{sale_id},"epoch":{epoch},"seq":{seq},"user_id":"{user_id}",'
            f'"quantity":{quantity},"reserved_ms":{reserved_ms}}}'.encode()
        ).rstrip(b"=")
        return (payload + b"." + self._signature(Receipt, payload)).decode()

    def sign(self, statement: Receipt | Witness) -> str:
        """The statement as text for a header or a body."""
        payload = urlsafe_b64encode(msgspec.json.encode(statement)).rstrip(b"=")
        return (payload + b"." + self._signature(type(statement), payload)).decode()

    def read(self, kind: type[Statement], text: str) -> Statement:
        """The statement again. Raises Forged."""
        try:
            payload, signature = (
                text.encode("ascii").split(b".") if len(text) <= STATEMENT_CHARACTERS_MAX else (b"", b"")
            )
            if not hmac.compare_digest(signature, self._signature(kind, payload)):
                raise Forged("the signature does not match")
            return msgspec.json.decode(urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)), type=kind)
        except (UnicodeEncodeError, ValueError, Base64Error, msgspec.DecodeError) as error:
            raise Forged("this is not a statement of the shop") from error

    def _signature(self, kind: type[Receipt] | type[Witness], payload: bytes) -> bytes:
        digest = hashlib.blake2b(payload, key=self._keys[kind], digest_size=SIGNATURE_BYTES).digest()
        return urlsafe_b64encode(digest).rstrip(b"=")
