"""Order ids: a function of who buys what with which key, so that a retry finds its order for ever.

An id is a UUID of version 8 (RFC 9562): 32 bits of the sale's id, then a hash of user and key under the sale's salt.
"""

from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

from shop.signatures import KeyedBlake2b

SALE_ID_MAX = 2**31 - 1
HASH_BYTES = 12
# Of the 96 bits behind the sale's id, those that are the hash's, and the version 8 and the variant of RFC 9562.
HASH_MASK = 0xFFFF_0FFF_3FFF_FFFF_FFFF_FFFF
VERSION_AND_VARIANT = 0x0000_8000_8000_0000_0000_0000
USER_ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"


class IdRange(NamedTuple):
    """The ids of one sale's orders, both ends included."""

    first: UUID
    last: UUID


def keyed_order_id(sale_id: int, salt: bytes, user_id: str, key: str) -> bytes:
    """The order that this user's `Idempotency-Key` names, as 16 bytes."""
    return _order_id(sale_id, salt, b"key\0" + user_id.encode() + b"\0" + key.encode())


def numbered_order_id(sale_id: int, salt: bytes, user_id: str, number: int) -> bytes:
    """The `number`-th order of a user who sends no key, as 16 bytes."""
    return _order_id(sale_id, salt, b"number\0" + user_id.encode() + b"\0" + str(number).encode())


def replacing_order_id(sale_id: int, salt: bytes, user_id: str, order_id: UUID) -> bytes:
    """The order that late money buys instead of this one, as 16 bytes. No key of a buyer names it."""
    return _order_id(sale_id, salt, b"late\0" + user_id.encode() + b"\0" + order_id.bytes)


def _order_id(sale_id: int, salt: bytes, name: bytes) -> bytes:
    digest = int.from_bytes(_salted(salt).digest(name), "big")
    return (sale_id << 96 | digest & HASH_MASK | VERSION_AND_VARIANT).to_bytes(16, "big")


@lru_cache(maxsize=1024)
def _salted(salt: bytes) -> KeyedBlake2b:
    return KeyedBlake2b(salt, digest_bytes=HASH_BYTES)


def uuid_text(order_id: bytes) -> str:
    """The 16 bytes of an id as a UUID is written."""
    digits = order_id.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def winner_bit(order_id: bytes, bits: int) -> int:
    """Where the sale's bitmap of winners notes this order; `reserve.lua` computes the same."""
    return int.from_bytes(order_id[12:], "big") % bits


def sale_of(order_id: UUID) -> int:
    """The sale that an order id belongs to."""
    return order_id.int >> 96


def ids_of_sale(sale_id: int) -> IdRange:
    """Where the orders of a sale lie in the primary key."""
    return IdRange(UUID(int=sale_id << 96), UUID(int=(sale_id << 96) | (2**96 - 1)))
