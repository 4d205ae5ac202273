"""The entries of a sale's stream, read back into events. What cannot be read is poison, and named as such.

The events of orders have one of two formats, by the `format` in the `sale` hash, which is fixed when the epoch is
loaded. Every entry says by itself which it has, and one stream may hold both:

1. An entry is one event, with named fields: kind, order (its 16 bytes), user, quantity, delta, balance, price, at.
2. An entry has the events of one script call, and the number of the last of them. It is one field: its name is the
   kind; its value begins with the line `count price at`, and has for each event the order's 16 bytes, followed by the
   line `user quantity delta balance`.

The event of a change is an entry with named fields in both: kind, change, outcome, delta, balance, at. `unpacked` gives
each event of either format by itself.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from uuid import UUID

import msgspec

INT32_MAX = 2**31 - 1
STOCK_KINDS = frozenset({"reserved", "honoured", "released"})
CHANGE_KINDS = frozenset({"pause", "resume", "window", "units", "close", "end", "settle", "restore"})

_PACKED_KINDS = {kind.encode(): kind for kind in STOCK_KINDS}
_PACKED_NAMES = (b"user", b"quantity", b"delta", b"balance", b"price", b"at")
_ORDER_ID_BYTES = 16
# As a value of msgpack, sixteen bytes are a UUID in a seventh of the time that its constructor takes.
_BIN_OF_16_BYTES = b"\xc4\x10"
_decode_uuid = msgspec.msgpack.Decoder(UUID).decode


Fields = dict[bytes, bytes]


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


def unpacked(entries: Iterable[tuple[int, Fields]], *, after: int) -> Iterator[tuple[int, Fields]]:
    """The events after this one in entries that follow each other, each by its number, for `parse_event`.

    An event of format 2 is one field, whose value is the order's 16 bytes and `user quantity delta balance price at`.
    An entry that says to be in format 2 and is not stands for its first event.
    """
    for number, fields in entries:
        if len(fields) == 1 and (kind := next(iter(fields))) in _PACKED_KINDS:
            events = _events(fields[kind])
            if not events:
                yield after + 1, fields
            for seq, event in enumerate(events, number - len(events) + 1):
                if seq > after:
                    yield seq, {kind: event}
        else:
            yield number, fields
        after = number


def _events(value: bytes) -> list[bytes]:
    """The events in the value of an entry; none if it is no such value."""
    head, _, lines = value.partition(b"\n")
    count, _, shared = head.partition(b" ")
    found: list[bytes] = []
    end = 0
    while end < len(lines):
        start, end = end, lines.find(b"\n", end + _ORDER_ID_BYTES) + 1
        if not end:
            return []
        found.append(b"%b %b" % (lines[start : end - 1], shared))
    return found if count == b"%d" % len(found) else []


def parse_event(seq: int, fields: Fields) -> LedgerEvent:
    """One event, as `unpacked` gives it. Raises UnreadableEvent."""
    try:
        if len(fields) == 1:
            ((name, value),) = fields.items()
            if (kind := _PACKED_KINDS.get(name)) is not None:
                return _packed_event(seq, kind, value)
        return _named_event(seq, fields)
    except (KeyError, ValueError, OverflowError, OSError) as error:
        raise UnreadableEvent(f"entry {seq} cannot be read: {error!r}") from error


def _packed_event(seq: int, kind: str, value: bytes) -> LedgerEvent:
    user, *numbers, at = value[_ORDER_ID_BYTES:].split(b" ")
    quantity, delta, balance, price_minor = map(int, numbers)
    if not (1 <= quantity <= INT32_MAX and -INT32_MAX <= delta <= INT32_MAX and 0 <= balance <= INT32_MAX):
        raise ValueError(f"a number of {value[_ORDER_ID_BYTES:]!r} is out of range")
    order_id = _decode_uuid(_BIN_OF_16_BYTES + value[:_ORDER_ID_BYTES])
    return LedgerEvent(seq, kind, delta, balance, _moment(at), order_id, user.decode(), quantity, price_minor)


def _named_event(seq: int, fields: Fields) -> LedgerEvent:
    kind = fields[b"kind"].decode()
    delta, balance = _number(fields[b"delta"], -INT32_MAX), _number(fields[b"balance"], 0)
    at = _moment(fields[b"at"])
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
    raise ValueError(f"the kind {kind!r} is unknown")


def named_fields(fields: Fields) -> Fields:
    """The fields of an event under their names, as format 1 writes them; what is not packed is returned as it is."""
    if len(fields) == 1:
        ((kind, value),) = fields.items()
        others = value[_ORDER_ID_BYTES:].split(b" ")
        if kind in _PACKED_KINDS and len(others) == len(_PACKED_NAMES):
            named = zip(_PACKED_NAMES, others, strict=True)
            return {b"kind": kind, b"order": value[:_ORDER_ID_BYTES], **dict(named)}
    return fields


def evidence(fields: Fields) -> dict[str, str]:
    """The fields of any event as text that Postgres can keep, whatever they are.

    What is packed stands under its names, and its order as the shop shows it; what cannot be unpacked, as it is.
    """
    named = named_fields(fields)
    found = {_text(name): _text(value) for name, value in named.items()}
    return found if named is fields else {**found, "order": str(UUID(bytes=named[b"order"]))}


def _text(value: bytes) -> str:
    return value.decode("ascii", errors="backslashreplace").replace("\0", "\\x00")


@lru_cache(maxsize=256)
def _moment(at_ms: bytes) -> datetime:
    """All events of a script call have the same."""
    return datetime.fromtimestamp(int(at_ms) / 1000, UTC)


def _number(text: bytes, least: int) -> int:
    value = int(text)
    if not least <= value <= INT32_MAX:
        raise ValueError(f"{value} is out of range")
    return value
