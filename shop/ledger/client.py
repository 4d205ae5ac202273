"""The ledger of a sale in Redis, as the rest of the shop sees it: one function for each script, and the reads.

Nothing here repeats a script by itself, and nothing sets stock: units move by `reserve`, `release` and `change` alone.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Literal, NamedTuple

import msgspec
import redis.asyncio as aioredis

from shop.ledger.events import Fields
from shop.ledger.keys import DIRECTORY, ledger_keys
from shop.ledger.stream import events_in
from shop.pipelined import PipelinedConnection
from shop.redis import call_script

CLOCK_JUMP_MS = 1_000


class LoadedSale(msgspec.Struct, frozen=True):
    """What the API must know of a sale before it asks the ledger; an entry of the directory."""

    sale_id: int
    epoch: int
    salt: bytes
    price_minor: int
    currency: str
    hold_seconds: int
    orders_per_user: int


class ReserveRequest(msgspec.Struct, frozen=True, gc=False):
    """One purchase on its way to the script."""

    order_id: bytes
    user_id: str
    quantity: int


class Answer(msgspec.Struct, frozen=True, gc=False):
    """An outcome word of a script and what follows it (shapes in the header of each Lua file)."""

    word: str
    fields: tuple[str, ...] = ()

    @property
    def seq(self) -> int:
        """The ledger's sequence number at which this was decided; 0 where the answer has none."""
        return int(self.fields[0]) if self.fields else 0


class LastOrder(NamedTuple):
    """The last order that a process saw reserved in an epoch; ('', 0) when it saw none."""

    order_id: bytes
    seq: int


@dataclass(frozen=True)
class LedgerState:
    """The `sale` hash at one moment, Redis time with it, and whether all the keys about orders are there."""

    epoch: str
    state: str
    starts_ms: int
    ends_ms: int
    available: int
    held_back: int
    seq: int
    applied: int
    now_ms: int
    has_orders: bool = True


class RedisClock:
    """Redis time as this process knows it: a lower bound that every answer improves."""

    def __init__(self) -> None:
        self._offset_ms: float | None = None

    def learn(self, clock_ms: int) -> None:
        """Take note of a Redis time that was just received. A jump of the clock is followed at once."""
        offset_ms = clock_ms - time.monotonic() * 1000
        known = self._offset_ms
        if known is None or offset_ms > known or known - offset_ms > CLOCK_JUMP_MS:
            self._offset_ms = offset_ms

    @property
    def now_ms(self) -> int:
        """Redis time, late by at most the delay of the best answer; local time before the first answer."""
        return int(time.time() * 1000 if self._offset_ms is None else self._offset_ms + time.monotonic() * 1000)


def parse(reply: bytes) -> Answer:
    """One answer of a script."""
    word, *fields = reply.decode().split(" ")
    return Answer(word, tuple(fields))


async def reserve(
    client: aioredis.Redis | PipelinedConnection,
    sale: LoadedSale,
    requests: Sequence[ReserveRequest],
    *,
    clock: RedisClock,
    last: LastOrder,
    timeout: float,
    mode: Literal["", "honour"] = "",
) -> list[Answer]:
    """One answer for each of up to 256 purchases. Only a worker may `honour`. Raises NotSent, or OutcomeUnknown."""
    deadline_ms = clock.now_ms + int(timeout * 1000)
    arguments: list[str | bytes | int] = [sale.epoch, deadline_ms, last.order_id, last.seq, mode]
    for request in requests:
        arguments += (request.order_id, request.user_id, request.quantity)
    call = client.call_script if isinstance(client, PipelinedConnection) else partial(call_script, client)
    reply = await call("reserve", ledger_keys(sale.sale_id, sale.epoch), arguments, timeout=timeout)
    clock.learn(reply[0])
    if len(reply) == len(requests) + 1 and reply[1] not in BATCH_WORDS:
        return [parse(each) for each in reply[1:]]
    return [parse(reply[1])] * len(requests)


BATCH_WORDS = frozenset({b"NOT_LOADED", b"STALE_EPOCH", b"BEHIND", b"LATE"})


async def release(
    client: aioredis.Redis, sale_id: int, epoch: int, orders: Sequence[tuple[bytes, int]], *, timeout: float
) -> list[Answer]:
    """Give the units of up to 256 closed orders (id, reserving seq) back; one answer for each."""
    arguments: list[str | bytes | int] = [epoch]
    for order_id, seq in orders:
        arguments += (order_id, seq)
    reply = await call_script(client, "release", ledger_keys(sale_id, epoch)[:4], arguments, timeout=timeout)
    answers = [parse(each) for each in reply]
    if answers[0].word in {"NOT_LOADED", "STALE_EPOCH", "SETTLED"}:
        return answers * len(orders)
    return answers


async def change(
    client: aioredis.Redis,
    sale_id: int,
    epoch: int,
    *,
    n: int,
    kind: str,
    first: int | str = "",
    second: int | str = "",
    timeout: float,
) -> Answer:
    """Apply change number `n`."""
    keys = ledger_keys(sale_id, epoch)
    reply = await call_script(
        client, "change", (keys.sale, keys.stream), (epoch, n, kind, first, second), timeout=timeout
    )
    return parse(reply[0])


async def command(client: aioredis.Redis, *parts: str | bytes | int) -> Any:
    """A command by name, where the client's own method has no usable type."""
    return await client.execute_command(*parts)  # type: ignore[no-untyped-call]


async def read_state(client: aioredis.Redis, sale_id: int, epoch: int) -> LedgerState | None:
    """The ledger now, or None when it is not there."""
    keys = ledger_keys(sale_id, epoch)
    of_orders = (keys.buyers, keys.orders, keys.winners)
    async with client.pipeline(transaction=True) as pipe:
        pipe.hgetall(keys.sale)
        pipe.time()
        pipe.exists(*of_orders)
        fields, (seconds, microseconds), found = await pipe.execute()
    if b"epoch" not in fields or b"state" not in fields:
        return None
    return _state(fields, seconds * 1000 + microseconds // 1000, has_orders=found == len(of_orders))


async def read_state_and_stream(
    client: aioredis.Redis, sale_id: int, epoch: int, *, after: int, count: int
) -> tuple[LedgerState | None, list[tuple[int, Fields]]]:
    """The ledger and up to `count` events after this one, both of the same moment."""
    keys = ledger_keys(sale_id, epoch)
    async with client.pipeline(transaction=True) as pipe:
        pipe.hgetall(keys.sale)
        pipe.time()
        pipe.xrange(keys.stream, f"{after + 1}-0", "+", count=count)
        fields, (seconds, microseconds), entries = await pipe.execute()
    state = _state(fields, seconds * 1000 + microseconds // 1000) if b"state" in fields else None
    return state, list(islice(events_in(entries, after=after), count))


def _state(fields: Mapping[bytes, bytes], clock_ms: int, *, has_orders: bool = True) -> LedgerState:
    number = {
        name: int(fields[name.encode()])
        for name in ("starts_ms", "ends_ms", "available", "held_back", "seq", "applied")
    }
    return LedgerState(
        epoch=fields[b"epoch"].decode(),
        state=fields[b"state"].decode(),
        now_ms=clock_ms + int(fields[b"skew_ms"]),
        has_orders=has_orders,
        **number,
    )


class LedgerOrder(NamedTuple):
    """An entry of the `orders` hash."""

    user_id: str
    quantity: int
    seq: int
    reserved_ms: int
    held: bool


async def find_order(client: aioredis.Redis, sale_id: int, epoch: int, order_id: bytes) -> LedgerOrder | None:
    """An order that may have no row in Postgres yet."""
    entry: bytes | None = await command(client, "HGET", ledger_keys(sale_id, epoch).orders, order_id)
    if entry is None:
        return None
    return parse_order(entry)


async def find_orders(
    client: aioredis.Redis, order_ids: Mapping[tuple[int, int], Sequence[bytes]]
) -> dict[bytes, bytes | Exception]:
    """The entries of those of these orders, by (sale, epoch), that are there; what fails for a sale is its own."""
    async with client.pipeline(transaction=False) as pipe:
        for (sale_id, epoch), ids in order_ids.items():
            pipe.hmget(ledger_keys(sale_id, epoch).orders, ids)  # type: ignore[arg-type]
        answers = await pipe.execute(raise_on_error=False)
    found: dict[bytes, bytes | Exception] = {}
    for ids, answer in zip(order_ids.values(), answers, strict=True):
        entries = [answer] * len(ids) if isinstance(answer, Exception) else answer
        found |= {order_id: entry for order_id, entry in zip(ids, entries, strict=True) if entry is not None}
    return found


def parse_order(entry: bytes) -> LedgerOrder:
    """An entry of the `orders` hash. Raises ValueError for what no script writes."""
    user_id, quantity, seq, reserved_ms, status = entry.decode().split(" ")
    return LedgerOrder(user_id, int(quantity), int(seq), int(reserved_ms), status == "held")


async def read_directory(client: aioredis.Redis, clock: RedisClock) -> list[LoadedSale]:
    """Which sales are loaded; the process's clock learns from the same round trip.

    An entry that cannot be read is passed over: the controller writes it anew if its sale is alive.
    """
    async with client.pipeline(transaction=False) as pipe:
        pipe.hvals(DIRECTORY)
        pipe.time()
        entries, (seconds, microseconds) = await pipe.execute()
    clock.learn(seconds * 1000 + microseconds // 1000)
    return [sale for entry in entries if (sale := _listed(entry)) is not None]


def _listed(entry: bytes) -> LoadedSale | None:
    try:
        return msgspec.json.decode(entry, type=LoadedSale)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


async def list_in_directory(client: aioredis.Redis, sale: LoadedSale) -> None:
    """Tell the API processes that this sale is loaded."""
    await command(client, "HSET", DIRECTORY, sale.sale_id, msgspec.json.encode(sale))


async def drop(client: aioredis.Redis, sale_id: int, epoch: int) -> None:
    """Forget a sale that is settled."""
    async with client.pipeline(transaction=True) as pipe:
        pipe.hdel(DIRECTORY, str(sale_id))
        pipe.delete(*ledger_keys(sale_id, epoch))
        await pipe.execute()
