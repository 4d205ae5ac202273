"""The entries of a sale's stream, read back into values. What cannot be read is poison, and named as such."""

from datetime import UTC, datetime
from uuid import UUID

import msgspec

INT32_MAX = 2**31 - 1
STOCK_KINDS = frozenset({"reserved", "honoured", "released"})
CHANGE_KINDS = frozenset({"pause", "resume", "window", "units", "close", "end", "settle", "restore"})


class UnreadableEvent(ValueError):
    """An entry of the stream that no script of this release writes."""


class LedgerEvent(msgspec.Struct, frozen=True, gc=False):
    """One event. `order_id`, `user_id` and `quantity` belong to orders; `change_n` and `outcome` to changes."""

    seq: int
    kind: str
    delta: int
    balance: int
    at: datetime
    order_id: UUID | None = None
    user_id: str | None = None
    quantity: int = 0
    price_minor: int = 0
    change_n: int | None = None
    outcome: str | None = None


def parse_event(seq: int, fields: dict[bytes, bytes]) -> LedgerEvent:
    """The event of an entry. Raises UnreadableEvent."""
    try:
        kind = fields[b"kind"].decode()
        delta, balance = _number(fields[b"delta"], -INT32_MAX), _number(fields[b"balance"], 0)
        at = datetime.fromtimestamp(int(fields[b"at"]) / 1000, UTC)
        if kind in STOCK_KINDS:
            return LedgerEvent(
                seq,
                kind,
                delta,
                balance,
                at,
                order_id=UUID(bytes=fields[b"order"]),
                user_id=fields[b"user"].decode(),
                quantity=_number(fields[b"quantity"], 1),
                price_minor=int(fields[b"price"]),
            )
        if kind in CHANGE_KINDS:
            change_n = _number(fields[b"change"], 1)
            return LedgerEvent(seq, kind, delta, balance, at, change_n=change_n, outcome=fields[b"outcome"].decode())
    except (KeyError, ValueError, OverflowError, OSError) as error:
        raise UnreadableEvent(f"entry {seq} cannot be read: {error!r}") from error
    raise UnreadableEvent(f"entry {seq} is of the unknown kind {kind!r}")


def evidence(fields: dict[bytes, bytes]) -> dict[str, str]:
    """The fields of any entry as text that Postgres can keep, whatever they are."""
    return {_text(name): _text(value) for name, value in fields.items()}


def _text(value: bytes) -> str:
    return value.decode("ascii", errors="backslashreplace").replace("\0", "\\x00")


def _number(text: bytes, least: int) -> int:
    value = int(text)
    if not least <= value <= INT32_MAX:
        raise ValueError(f"{value} is out of range")
    return value
