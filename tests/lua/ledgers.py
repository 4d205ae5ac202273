"""Ledgers for the tests of the scripts: built through `load_sale`, used through `shop.ledger.client`, seen whole."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import redis.asyncio as aioredis

from shop.ledger import client as ledger
from shop.ledger import loading, stream
from shop.ledger.client import Answer, LastOrder, LoadedSale, RedisClock, ReserveRequest
from shop.ledger.events import named_fields
from shop.ledger.keys import LedgerKeys, ledger_keys
from shop.redis import call_script, script

TIMEOUT_SECONDS = 2.0
NOBODY = LastOrder(b"", 0)
TOKEN = "the-loader"
CLOCK = "redis.call('TIME')"
FORMATS = pytest.mark.parametrize("ledger_format", [1, 2])
# What is said of a stream that has numbers which the ledger has not given: by Redis of one, by the scripts of many.
AHEAD = "equal or smaller|ahead of the ledger"
# A moment for scripts whose clock stands still, in milliseconds.
NOON_MS = 1_800_000_000_123


def order_id(number: int) -> bytes:
    """An order's sixteen bytes; they hold a NUL, a line break and what is no UTF-8, as real ids may."""
    return b"\x00\r\n\xff }{:" + number.to_bytes(8, "big")


async def command(redis: aioredis.Redis, *parts: str | bytes | int) -> Any:
    """A command by its name, where the client's own method has no usable type."""
    return await redis.execute_command(*parts)  # type: ignore[no-untyped-call]


async def everything(redis: aioredis.Redis) -> dict[bytes, Any]:
    """All that a Redis database holds, readable, for comparing before and after."""
    found: dict[bytes, Any] = {}
    for key in await redis.keys("*"):
        found[key] = await _value(redis, key)
    return found


async def _value(redis: aioredis.Redis, key: bytes) -> Any:
    kind = await redis.type(key)
    if kind == b"hash":
        return await command(redis, "HGETALL", key)
    if kind == b"stream":
        about = await redis.xinfo_stream(key)
        return about["last-generated-id"], await redis.xrange(key)
    return kind, await redis.dump(key)


@dataclass(frozen=True)
class Ledger:
    """One ledger and the scripts that work on it."""

    redis: aioredis.Redis
    sale: LoadedSale

    @property
    def keys(self) -> LedgerKeys:
        return ledger_keys(self.sale.sale_id, self.sale.epoch)

    async def buy(
        self, *requests: tuple[int, str, Any], last: LastOrder = NOBODY, clock: RedisClock | None = None
    ) -> list[Answer]:
        """Ask for units in one batch of (order number, user, quantity)."""
        batch = [ReserveRequest(order_id(number), user, quantity) for number, user, quantity in requests]
        return await ledger.reserve(
            self.redis, self.sale, batch, clock=clock or RedisClock(), last=last, timeout=TIMEOUT_SECONDS
        )

    async def give_back(self, *orders: tuple[int, int]) -> list[Answer]:
        """Release a batch of (order number, reserving seq)."""
        pairs = [(order_id(number), seq) for number, seq in orders]
        return await ledger.release(self.redis, self.sale.sale_id, self.sale.epoch, pairs, timeout=TIMEOUT_SECONDS)

    async def change(self, n: int, kind: str, first: int | str = "", second: int | str = "") -> Answer:
        """Apply one numbered change."""
        return await ledger.change(
            self.redis,
            self.sale.sale_id,
            self.sale.epoch,
            n=n,
            kind=kind,
            first=first,
            second=second,
            timeout=TIMEOUT_SECONDS,
        )

    async def fields(self) -> dict[str, str]:
        """The `sale` hash."""
        found: dict[bytes, bytes] = await command(self.redis, "HGETALL", self.keys.sale)
        return {name.decode(): value.decode() for name, value in found.items()}

    async def numbers(self, *names: str) -> tuple[int, ...]:
        """Some fields of the `sale` hash."""
        found = await self.fields()
        return tuple(int(found[name]) for name in names)

    async def set(self, **fields: int | str) -> None:
        """Put the ledger into a state that would take the shop long to reach."""
        if fields:
            pairs = [part for pair in fields.items() for part in pair]
            await command(self.redis, "HSET", self.keys.sale, *pairs)

    async def entry(self, number: int) -> str | None:
        """An order's entry, decoded."""
        found = await command(self.redis, "HGET", self.keys.orders, order_id(number))
        return found.decode() if found is not None else None

    async def holding(self, user: str) -> str | None:
        """A buyer's entry, decoded."""
        found = await command(self.redis, "HGET", self.keys.buyers, user)
        return found.decode() if found is not None else None

    async def entries(self) -> list[tuple[int, dict[bytes, bytes]]]:
        """The whole stream, as the scripts wrote it."""
        return await stream.events_from(self.redis, self.sale.sale_id, self.sale.epoch, 0, 10_000)

    async def events(self) -> list[tuple[int, dict[bytes, bytes]]]:
        """The whole stream, with every field under its name in whichever format."""
        return [(seq, named_fields(fields)) for seq, fields in await self.entries()]

    async def run_at(self, clock_ms: int, name: str, *arguments: str | bytes | int) -> Any:
        """Run a script whose clock stands still: only its one reading of Redis time is replaced."""
        keys = (self.keys.sale, self.keys.stream) if name == "change" else self.keys
        return await run_at(self.redis, clock_ms * 1000, name, keys, *arguments)


async def run_at(
    redis: aioredis.Redis, clock_us: int, name: str, keys: tuple[str, ...], *arguments: str | bytes | int
) -> Any:
    """Run a script at a moment, in microseconds."""
    source = script(name).source
    assert source.count(CLOCK) == 1, f"{name}.lua reads the clock once, with {CLOCK}"
    frozen = source.replace(CLOCK, f"{{ '{clock_us // 1_000_000}', '{clock_us % 1_000_000}' }}")
    return await command(redis, "EVAL", frozen, len(keys), *keys, *arguments)


async def sale_of_tests(redis: aioredis.Redis, *, sale_id: int = 7, epoch: int = 1) -> Ledger:
    """A ledger's name, with nothing behind it."""
    sale = LoadedSale(
        sale_id=sale_id,
        epoch=epoch,
        salt=b"salt",
        price_minor=990,
        currency="EUR",
        hold_seconds=900,
        orders_per_user=10,
    )
    return Ledger(redis, sale)


def opening_fields(now_ms: int, **changes: int) -> Mapping[str, int]:
    """What a loader writes: an open window, ten units, no limit that a test would meet by accident."""
    fields = {
        "starts_ms": now_ms - 60_000,
        "ends_ms": now_ms + 3_600_000,
        "units_per_user": 1_000,
        "orders_per_user": 1_000,
        "price_minor": 990,
        "available": 10,
        "held_back": 0,
        "applied": 0,
        "backlog_max": 1_000,
        "skew_ms": 0,
        "winner_bits": 1_024,
        "format": 2,
    }
    assert fields.keys() >= changes.keys()
    return {**fields, **changes}


async def begun_ledger(redis: aioredis.Redis, **changes: int) -> Ledger:
    """A ledger that is loaded and not opened."""
    made = await sale_of_tests(redis)
    seconds, microseconds = await redis.time()
    answer = await loading.begin_load(
        redis,
        made.sale.sale_id,
        made.sale.epoch,
        token=TOKEN,
        fields=opening_fields(seconds * 1000 + microseconds // 1000, **changes),
        timeout=TIMEOUT_SECONDS,
    )
    assert answer.word == "BEGUN"
    return made


async def open_ledger(redis: aioredis.Redis, **changes: int) -> Ledger:
    """A ledger that sells; `changes` are fields of the `sale` hash."""
    made = await begun_ledger(redis, **changes)
    answer = await loading.open_load(redis, made.sale.sale_id, made.sale.epoch, token=TOKEN, timeout=TIMEOUT_SECONDS)
    assert answer.word == "OPENED"
    return made


async def honour(ledger_: Ledger, *requests: tuple[int, str, int]) -> list[Answer]:
    """Honour orders of (number, user, quantity)."""
    batch = [ReserveRequest(order_id(number), user, quantity) for number, user, quantity in requests]
    return await loading.honour(ledger_.redis, ledger_.sale, batch, timeout=TIMEOUT_SECONDS)


async def call(ledger_: Ledger, name: str, *arguments: str | bytes | int) -> Any:
    """The bare answer of a script, as Redis gives it."""
    keys = (ledger_.keys.sale, ledger_.keys.stream) if name == "change" else ledger_.keys
    return await call_script(ledger_.redis, name, keys, arguments, timeout=TIMEOUT_SECONDS)


LATER_MS = NOON_MS + 3_600_000


def words(answers: list[Answer]) -> list[str]:
    return [answer.word for answer in answers]
