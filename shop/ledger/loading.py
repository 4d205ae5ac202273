"""How a ledger is built, fenced off and built again: the worker's side of it. Buyers never come here."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

import redis.asyncio as aioredis
import structlog
from redis.exceptions import NoScriptError, ResponseError

from shop.ledger.client import (
    Answer,
    LastOrder,
    LedgerOrder,
    LoadedSale,
    RedisClock,
    ReserveRequest,
    command,
    parse,
    parse_order,
    read_directory,
    reserve,
)
from shop.ledger.keys import ledger_keys
from shop.redis import call_script, script

ORDERS_PER_CHUNK = 1_000  # what `load_sale.lua` takes in one call
HONOURED_PER_BATCH = 256  # what `reserve.lua` takes in one call
HEADS_AT_ONCE = 256  # of ledgers, in one round trip
NOBODY = LastOrder(b"", 0)

log = structlog.get_logger(__name__)


async def begin_load(
    client: aioredis.Redis, sale_id: int, epoch: int, *, token: str, fields: Mapping[str, int], timeout: float
) -> Answer:
    """Start a ledger over, in state `loading`; whatever an earlier loader left is gone."""
    arguments: list[str | bytes | int] = ["begin", epoch, token]
    for pair in fields.items():
        arguments += pair
    return await _load(client, sale_id, epoch, arguments, timeout)


async def add_orders(
    client: aioredis.Redis,
    sale_id: int,
    epoch: int,
    *,
    token: str,
    orders: Iterable[tuple[bytes, LedgerOrder]],
    timeout: float,
) -> Answer:
    """Add up to `ORDERS_PER_CHUNK` orders to a ledger that is loading; those that it has already stay as they are."""
    arguments: list[str | bytes | int] = ["orders", epoch, token]
    for order_id, order in orders:
        status = "held" if order.held else "released"
        arguments += (order_id, f"{order.user_id} {order.quantity} {order.seq} {order.reserved_ms} {status}")
    return await _load(client, sale_id, epoch, arguments, timeout)


async def open_load(
    client: aioredis.Redis, sale_id: int, epoch: int, *, token: str, timeout: float, state: str = "open"
) -> Answer:
    """Let a complete ledger take this state: it sells, or waits for what must be honoured before."""
    return await _load(client, sale_id, epoch, ["open", epoch, token, state], timeout)


async def _load(
    client: aioredis.Redis, sale_id: int, epoch: int, arguments: Sequence[str | bytes | int], timeout: float
) -> Answer:
    reply = await call_script(client, "load_sale", ledger_keys(sale_id, epoch), arguments, timeout=timeout)
    return parse(reply[0])


async def fence(
    client: aioredis.Redis, sale_id: int, epochs: Iterable[int], *, number: int, may_load: bool = True
) -> None:
    """Make every caller of these epochs stale, where there is a ledger.

    Where Redis has forgotten the scripts, nobody can sell anyway: an API, which may not load them, leaves it at that.
    """
    for epoch in epochs:
        await _fence(client, "fence", sale_id, epoch, number, may_load=may_load)


async def lift_fence(client: aioredis.Redis, sale_id: int, epoch: int, *, number: int) -> Answer:
    """Let the callers of this epoch in again, unless a later recovery has fenced it."""
    return await _fence(client, "lift", sale_id, epoch, number, may_load=True)


async def _fence(client: aioredis.Redis, step: str, sale_id: int, epoch: int, number: int, *, may_load: bool) -> Answer:
    known = script("fence")
    arguments = ("EVALSHA", known.sha, 1, ledger_keys(sale_id, epoch).sale, step, epoch, number)
    try:
        try:
            reply: list[bytes] = await command(client, *arguments)
        except NoScriptError:
            if not may_load:
                return Answer("MISSING")
            await client.script_load(known.source)
            reply = await command(client, *arguments)
    except ResponseError as error:
        if "WRONGTYPE" not in str(error):
            raise
        return Answer("MISSING")  # What is there is no ledger, and nobody can sell from it.
    return parse(reply[0])


def is_fenced_by(epoch: str, number: int) -> bool:
    """Whether the `epoch` of a ledger is the fence of this recovery."""
    return epoch == f"fenced.{number}"


async def honour(
    client: aioredis.Redis, sale: LoadedSale, requests: Sequence[ReserveRequest], *, timeout: float
) -> list[Answer]:
    """Reserve what was promised before a loss; one answer for each, at most `HONOURED_PER_BATCH`."""
    return await reserve(client, sale, requests, clock=RedisClock(), last=NOBODY, timeout=timeout, mode="honour")


async def surviving_orders(
    client: aioredis.Redis, sale_id: int, epoch: int
) -> AsyncIterator[list[tuple[bytes, LedgerOrder]]]:
    """The `orders` hash in chunks, whatever is left of it; an entry may come twice, one that nobody wrote never."""
    cursor: int | bytes = 0
    while True:
        cursor, pairs = await command(
            client, "HSCAN", ledger_keys(sale_id, epoch).orders, cursor, "COUNT", ORDERS_PER_CHUNK
        )
        yield list(_readable(sale_id, pairs))
        if int(cursor) == 0:
            return


def _readable(sale_id: int, pairs: Mapping[bytes, bytes]) -> Iterable[tuple[bytes, LedgerOrder]]:
    for order_id, entry in pairs.items():
        try:
            yield order_id, parse_order(entry)
        except ValueError:
            log.error("order_unreadable", sale_id=sale_id, order_id=order_id.hex(), entry=repr(entry)[:200])


async def orders_and_buyers(client: aioredis.Redis, sale_id: int, epoch: int) -> tuple[int, int]:
    """How many orders and buyers the ledger knows."""
    keys = ledger_keys(sale_id, epoch)
    counts: list[Any] = [await command(client, "HLEN", key) for key in (keys.orders, keys.buyers)]
    return int(counts[0]), int(counts[1])


async def newest_epoch(client: aioredis.Redis, sale_id: int, known: int) -> int:
    """The newest epoch that Redis has a ledger of; above the known one when Postgres was restored to an older state."""
    listed = {entry.sale_id: entry.epoch for entry in await read_directory(client, RedisClock())}
    return max(known, listed.get(sale_id, known))


async def forget_epochs(client: aioredis.Redis, sale_id: int, epochs: Iterable[int]) -> None:
    """Delete ledgers that a later epoch has replaced."""
    for epoch in epochs:
        await command(client, "UNLINK", *ledger_keys(sale_id, epoch))


async def read_heads(client: aioredis.Redis, ledgers: Sequence[tuple[int, int]]) -> list[tuple[int, int, int] | None]:
    """Where each of these ledgers (sale, epoch) is: seq, available, held_back; None for what is away, fenced or broken.

    They are read in few round trips, `HEADS_AT_ONCE` in each, and not all at the same moment.
    """
    heads: list[tuple[int, int, int] | None] = []
    for first in range(0, len(ledgers), HEADS_AT_ONCE):
        some = ledgers[first : first + HEADS_AT_ONCE]
        async with client.pipeline(transaction=False) as pipe:
            for sale_id, epoch in some:
                pipe.hmget(ledger_keys(sale_id, epoch).sale, ["epoch", "seq", "available", "held_back"])
            found = await pipe.execute(raise_on_error=False)
        heads += [_head(epoch, fields) for (_, epoch), fields in zip(some, found, strict=True)]
    return heads


def _head(epoch: int, fields: Sequence[bytes | None] | Exception) -> tuple[int, int, int] | None:
    if isinstance(fields, Exception) or None in fields or fields[0] != b"%d" % epoch:
        return None
    try:
        seq, available, held_back = (int(value or 0) for value in fields[1:])
    except ValueError:
        return None
    return seq, available, held_back


async def run_id(client: aioredis.Redis) -> str:
    """Which run of Redis this is: another one may have read older data when it started."""
    info: dict[str, Any] = await client.info("server")
    return str(info["run_id"])
