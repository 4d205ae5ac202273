"""`reserve.lua` on a ledger that is another, older, broken or full: nothing is executed, and the answer says why."""

from pathlib import Path

import pytest
import redis.asyncio as aioredis

from shop.embedded import ValkeyServer
from shop.ledger.client import Answer, LastOrder
from shop.redis import NotSent, ScriptsNotLoaded, connect, load_scripts
from shop.settings import Settings
from tests.lua.ledgers import (
    AHEAD,
    FORMATS,
    begun_ledger,
    command,
    everything,
    open_ledger,
    order_id,
    sale_of_tests,
    words,
)


async def test_a_ledger_that_lost_an_order_which_the_caller_saw_answers_behind(redis: aioredis.Redis) -> None:
    """BEHIND: the entry is not there, or has another seq: the ledger was rolled back (F4)."""
    ledger = await open_ledger(redis)
    [answer] = await ledger.buy((1, "ann", 1))
    await ledger.buy((2, "bob", 1))
    before = await everything(redis)

    for last in (LastOrder(order_id(9), 3), LastOrder(order_id(1), 2), LastOrder(order_id(2), 1)):
        assert words(await ledger.buy((3, "cid", 1), (1, "ann", 1), last=last)) == ["BEHIND", "BEHIND"]
    assert await everything(redis) == before

    known = LastOrder(order_id(1), answer.seq)
    assert words(await ledger.buy((3, "cid", 1), last=known)) == ["RESERVED"]


async def test_a_released_order_still_proves_that_the_ledger_was_not_rolled_back(redis: aioredis.Redis) -> None:
    ledger = await open_ledger(redis)
    await ledger.buy((1, "ann", 1))
    await ledger.give_back((1, 1))

    assert words(await ledger.buy((2, "bob", 1), last=LastOrder(order_id(1), 1))) == ["RESERVED"]


async def test_another_epoch_is_stale(redis: aioredis.Redis) -> None:
    """STALE_EPOCH, for the whole batch: also after a ledger was fenced."""
    ledger = await open_ledger(redis)
    for epoch in ("2", "fenced.1"):
        await ledger.set(epoch=epoch)
        before = await everything(redis)
        assert words(await ledger.buy((1, "ann", 1), (2, "bob", 1))) == ["STALE_EPOCH", "STALE_EPOCH"]
        assert await everything(redis) == before


async def test_a_sale_whose_keys_are_missing_is_not_loaded_and_is_not_made_up(redis: aioredis.Redis) -> None:
    """NOT_LOADED: missing means closed, and nothing is warmed up from anywhere (F3, F5)."""
    ledger = await sale_of_tests(redis)

    assert words(await ledger.buy((1, "ann", 1), (2, "bob", 1))) == ["NOT_LOADED", "NOT_LOADED"]
    assert await everything(redis) == {}


async def test_a_sale_that_is_still_loading_is_not_loaded(redis: aioredis.Redis) -> None:
    ledger = await begun_ledger(redis)
    before = await everything(redis)

    assert words(await ledger.buy((1, "ann", 1))) == ["NOT_LOADED"]
    assert await everything(redis) == before


@pytest.mark.parametrize("name", ["sale", "buyers", "orders", "stream"])
@pytest.mark.parametrize("kind", ["string", "list"])
async def test_a_key_of_a_wrong_type_is_an_error_and_nothing_is_written(
    redis: aioredis.Redis, name: str, kind: str
) -> None:
    """F32: whoever sees NotSent knows that nothing was done."""
    ledger = await open_ledger(redis)
    await ledger.buy((1, "ann", 1))
    key = getattr(ledger.keys, name)
    await redis.delete(key)
    if kind == "string":
        await redis.set(key, "not a ledger")
    else:
        await command(redis, "RPUSH", key, "not a ledger")
    before = await everything(redis)

    with pytest.raises(NotSent, match="WRONGTYPE"):
        await ledger.buy((2, "bob", 1), (3, "cid", 1))

    assert await everything(redis) == before


@pytest.mark.parametrize("name", ["buyers", "orders", "stream"])
async def test_the_other_keys_may_be_empty(redis: aioredis.Redis, name: str) -> None:
    """F32: a new ledger has no buyers, no orders and no events, which Redis keeps as no key at all."""
    ledger = await open_ledger(redis)
    assert await redis.exists(getattr(ledger.keys, name)) == 0

    assert words(await ledger.buy((1, "ann", 1))) == ["RESERVED"]


@pytest.mark.parametrize("name", ["buyers", "orders", "winners"])
async def test_a_ledger_that_has_lost_a_part_sells_nothing(redis: aioredis.Redis, name: str) -> None:
    """Else a buyer whose units are forgotten buys them again before anybody has noticed (I5)."""
    ledger = await open_ledger(redis)
    assert words(await ledger.buy((1, "ann", 1))) == ["RESERVED"]
    await redis.delete(getattr(ledger.keys, name))
    before = await everything(redis)

    assert words(await ledger.buy((2, "bob", 1))) == ["NOT_LOADED"]
    assert await everything(redis) == before


@pytest.mark.parametrize("field", ["starts_ms", "ends_ms", "available", "seq", "backlog_max", "skew_ms"])
async def test_a_ledger_that_lacks_a_number_is_an_error_and_nothing_is_written(
    redis: aioredis.Redis, field: str
) -> None:
    """F32: a comparison with what is not there must not sell."""
    ledger = await open_ledger(redis)
    await command(redis, "HDEL", ledger.keys.sale, field)
    before = await everything(redis)

    with pytest.raises(NotSent):
        await ledger.buy((1, "ann", 1))

    assert await everything(redis) == before


@pytest.mark.parametrize("junk", ["", "many", "1", "-1 1", "1 1 1"])
@pytest.mark.parametrize("name", ["buyers", "orders"])
async def test_an_entry_that_cannot_be_read_is_an_error_and_nothing_is_written(
    redis: aioredis.Redis, name: str, junk: str
) -> None:
    """A ledger that contradicts itself is not repaired by guessing, and sells nothing by accident."""
    ledger = await open_ledger(redis)
    assert words(await ledger.buy((3, "cid", 1))) == ["RESERVED"]
    field = b"bob" if name == "buyers" else order_id(2)
    await command(redis, "HSET", getattr(ledger.keys, name), field, junk)
    before = await everything(redis)

    with pytest.raises(NotSent):
        await ledger.buy((1, "ann", 1), (2, "bob", 1))

    assert await everything(redis) == before


@FORMATS
@pytest.mark.parametrize("buyers", [["ann"], ["ann", "bob"], ["ann", "bob", "cid"]])
async def test_a_stream_that_is_ahead_of_the_ledger_is_an_error_and_nothing_is_written(
    redis: aioredis.Redis, ledger_format: int, buyers: list[str]
) -> None:
    """The append is the first write, because it is the one that can still be refused."""
    ledger = await open_ledger(redis, format=ledger_format)
    await redis.xadd(ledger.keys.stream, {"kind": "reserved"}, id="2-0")
    before = await everything(redis)

    with pytest.raises(NotSent, match=AHEAD):
        await ledger.buy(*((number, user, 1) for number, user in enumerate(buyers)))

    assert await everything(redis) == before


async def test_a_redis_without_the_scripts_executes_nothing_and_says_so(settings: Settings, tmp_path: Path) -> None:
    """NOSCRIPT is ScriptsNotLoaded, a kind of NotSent; the API never loads a script by itself (F33)."""
    server = ValkeyServer(tmp_path)
    server.start()
    client = connect(server.url, settings)
    try:
        with pytest.raises(ScriptsNotLoaded):
            await (await sale_of_tests(client)).buy((1, "ann", 1))
        await load_scripts(client)
        ledger = await open_ledger(client)
        await ledger.buy((1, "ann", 1))
        await client.script_flush()
        before = await everything(client)
        with pytest.raises(ScriptsNotLoaded):
            await ledger.buy((2, "bob", 1))
        assert await everything(client) == before
    finally:
        await client.aclose(close_connection_pool=True)
        server.stop()


async def test_a_full_redis_refuses_a_purchase_before_its_first_write_and_takes_units_back(
    settings: Settings, tmp_path: Path
) -> None:
    """`#!lua` without allow-oom for what sells and loads, with it for what gives back and closes."""
    server = ValkeyServer(tmp_path)
    server.start()
    client = connect(server.url, settings)
    try:
        await load_scripts(client)
        ledger = await open_ledger(client)
        await ledger.buy((1, "ann", 1))
        await client.config_set("maxmemory", 1)
        before = await everything(client)

        with pytest.raises(NotSent, match="maxmemory"):
            await ledger.buy((2, "bob", 1))
        with pytest.raises(NotSent, match="maxmemory"):
            await begun_ledger(client)
        with pytest.raises(NotSent, match="maxmemory"):
            await ledger.buy((1, "ann", 1))
        assert await everything(client) == before

        assert await ledger.give_back((1, 1)) == [Answer("RELEASED", ("2", "10"))]
        assert await ledger.change(1, "pause") == Answer("APPLIED", ("3", "10"))
        await client.config_set("maxmemory", 0)
        await ledger.change(2, "resume")
        assert words(await ledger.buy((2, "bob", 1))) == ["RESERVED"]
    finally:
        await client.aclose(close_connection_pool=True)
        server.stop()
