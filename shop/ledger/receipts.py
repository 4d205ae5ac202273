"""Signed statements of the shop: a receipt says what was promised, a witness says why nothing was.

Both are `<base64url of JSON>.<base64url of HMAC>`; the HMAC is BLAKE2b-128 under a key derived from the secret.
"""

import hashlib
import hmac
from typing import TypeVar

import msgspec

from shop.signatures import KeyedBlake2b, base64url, from_base64url

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
        self._hashes = {
            kind: KeyedBlake2b(
                hashlib.blake2b(secret, person=kind.__name__.encode(), digest_size=32).digest(),
                digest_bytes=SIGNATURE_BYTES,
            )
            for kind in (Receipt, Witness)
        }

    def receipt(
        self, *, order_id: str, sale_id: int, epoch: int, seq: int, user_id: str, quantity: int, reserved_ms: int
    ) -> str:
        """`sign(Receipt(…))`, written without the detour over the value: every purchase needs one.

        The values are checked before: none holds a character that JSON would escape.
        """
        payload = base64url(
            f'{{"order_id":"{order_id}","sale_id":{sale_id},"epoch":{epoch},"seq":{seq},"user_id":"{user_id}",'
            f'"quantity":{quantity},"reserved_ms":{reserved_ms}}}'.encode()
        )
        return (payload + b"." + self._signature(Receipt, payload)).decode()

    def sign(self, statement: Receipt | Witness) -> str:
        """The statement as text for a header or a body."""
        payload = base64url(msgspec.json.encode(statement))
        return (payload + b"." + self._signature(type(statement), payload)).decode()

    def read(self, kind: type[Statement], text: str) -> Statement:
        """The statement again. Raises Forged."""
        try:
            payload, signature = (
                text.encode("ascii").split(b".") if len(text) <= STATEMENT_CHARACTERS_MAX else (b"", b"")
            )
            if not hmac.compare_digest(signature, self._signature(kind, payload)):
                raise Forged("the signature does not match")
            return msgspec.json.decode(from_base64url(payload), type=kind)
        except (ValueError, msgspec.DecodeError) as error:
            raise Forged("this is not a statement of the shop") from error

    def _signature(self, kind: type[Receipt] | type[Witness], payload: bytes) -> bytes:
        return base64url(self._hashes[kind].digest(payload))
