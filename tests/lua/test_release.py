"""`release.lua`: the one place that gives stock back, and each order's units once."""

import pytest
import redis.asyncio as aioredis

from shop.ledger.client import Answer
from shop.redis import NotSent
from tests.lua.ledgers import (
    AHEAD,
    FORMATS,
    Ledger,
    begun_ledger,
    call,
    command,
    everything,
    open_ledger,
    order_id,
    sale_of_tests,
)


async def ledger_with_orders(redis: aioredis.Redis, **changes: int) -> Ledger:
    """Ann has two units (order 1, seq 1), Bob three (order 2, seq 2); five of ten are left."""
    ledger = await open_ledger(redis, **{"available": 10, **changes})
    answers = await ledger.buy((1, "ann", 2), (2, "bob", 3))
    assert [answer.word for answer in answers] == ["RESERVED", "RESERVED"]
    return ledger


@FORMATS
async def test_a_release_gives_the_units_back_and_writes_its_event_in_one_step(
    redis: aioredis.Redis, ledger_format: int
) -> None:
    """RELEASED: available, the buyer's units, the order's mark and the stream all change, and agree (I2, I8)."""
    ledger = await ledger_with_orders(redis, format=ledger_format)
    before = await ledger.fields()
    reserved_ms = (await ledger.entry(1) or "").split(" ")[3]

    assert await ledger.give_back((1, 1)) == [Answer("RELEASED", ("3", "7"))]

    assert await ledger.fields() == {**before, "available": "7", "seq": "3"}
    assert await ledger.entry(1) == f"ann 2 1 {reserved_ms} released"
    assert await ledger.holding("ann") == "0 1"
    assert await ledger.holding("bob") == "3 1"
    seq, event = (await ledger.events())[-1]
    assert int(event.pop(b"at")) >= int(reserved_ms)
    assert (seq, event) == (
        3,
        {
            b"kind": b"released",
            b"order": order_id(1),
            b"user": b"ann",
            b"quantity": b"2",
            b"delta": b"2",
            b"balance": b"7",
            b"price": b"990",
        },
    )


async def test_a_second_release_of_an_order_changes_nothing(redis: aioredis.Redis) -> None:
    """ALREADY, however often it is asked, and also for the same pair twice in one batch (F23, I8)."""
    ledger = await ledger_with_orders(redis)

    assert await ledger.give_back((1, 1), (1, 1)) == [Answer("RELEASED", ("3", "7")), Answer("ALREADY")]
    before = await everything(redis)

    assert await ledger.give_back((1, 1), (1, 1)) == [Answer("ALREADY"), Answer("ALREADY")]
    assert await everything(redis) == before


@pytest.mark.parametrize(
    ("number", "seq"), [(1, 2), (2, 1), (1, 0), (1, -1), (1, 3), (9, 1)], ids=lambda value: str(value)
)
async def test_only_the_order_that_was_reserved_at_that_seq_is_released(
    redis: aioredis.Redis, number: int, seq: int
) -> None:
    """UNKNOWN for another seq, which means another epoch's order, and for an order that is not there."""
    ledger = await ledger_with_orders(redis)
    before = await everything(redis)

    assert await ledger.give_back((number, seq)) == [Answer("UNKNOWN")]
    assert await everything(redis) == before


async def test_a_released_order_with_the_wrong_seq_is_unknown_and_not_already(redis: aioredis.Redis) -> None:
    ledger = await ledger_with_orders(redis)
    await ledger.give_back((1, 1))

    assert await ledger.give_back((1, 2)) == [Answer("UNKNOWN")]


async def test_each_pair_of_a_batch_gets_its_own_answer_in_order(redis: aioredis.Redis) -> None:
    """One event for each release, the balances a chain, and nothing for the rest (I1, I2)."""
    ledger = await ledger_with_orders(redis)
    await ledger.buy((3, "ann", 1))

    answers = await ledger.give_back((9, 9), (2, 2), (1, 1), (2, 2), (3, 1), (3, 3))

    assert answers == [
        Answer("UNKNOWN"),
        Answer("RELEASED", ("4", "7")),
        Answer("RELEASED", ("5", "9")),
        Answer("ALREADY"),
        Answer("UNKNOWN"),
        Answer("RELEASED", ("6", "10")),
    ]
    events = [(seq, event[b"kind"], event[b"balance"]) for seq, event in (await ledger.events())[3:]]
    assert events == [(4, b"released", b"7"), (5, b"released", b"9"), (6, b"released", b"10")]
    assert await ledger.holding("ann") == "0 2"
    assert await ledger.holding("bob") == "0 1"
    assert await ledger.numbers("available", "seq") == (10, 6)


async def test_256_orders_are_released_in_one_batch(redis: aioredis.Redis) -> None:
    ledger = await open_ledger(redis, available=256)
    await ledger.buy(*((number, f"user{number}", 1) for number in range(256)))

    answers = await ledger.give_back(*((number, number + 1) for number in range(256)))

    assert [answer.word for answer in answers] == ["RELEASED"] * 256
    assert await ledger.numbers("available", "seq") == (256, 512)


async def test_an_empty_batch_changes_nothing(redis: aioredis.Redis) -> None:
    ledger = await ledger_with_orders(redis)
    before = await everything(redis)

    assert await call(ledger, "release", ledger.sale.epoch) == []
    assert await everything(redis) == before


async def test_units_that_came_back_are_sold_again(redis: aioredis.Redis) -> None:
    ledger = await open_ledger(redis, available=1)
    await ledger.buy((1, "ann", 1))
    assert [answer.word for answer in await ledger.buy((2, "bob", 1))] == ["SOLD_OUT"]

    await ledger.give_back((1, 1))

    assert [answer.word for answer in await ledger.buy((2, "bob", 1))] == ["RESERVED"]
    assert [answer.word for answer in await ledger.buy((3, "cid", 1))] == ["SOLD_OUT"]


@pytest.mark.parametrize("fields", [{"state": "paused"}, {"ends_ms": 1}, {"backlog_max": 0}, {"starts_ms": 10**15}])
async def test_units_come_back_in_every_state_in_which_the_ledger_holds_them(
    redis: aioredis.Redis, fields: dict[str, int | str]
) -> None:
    """A pause, the window and a backlog stop purchases alone."""
    ledger = await ledger_with_orders(redis)
    await ledger.set(**fields)

    assert await ledger.give_back((1, 1)) == [Answer("RELEASED", ("3", "7"))]


@FORMATS
async def test_after_the_end_the_units_do_not_come_back_to_the_ledger(
    redis: aioredis.Redis, ledger_format: int
) -> None:
    """One event with delta 0: the persister credits the product instead. The buyer's units and the mark change."""
    ledger = await ledger_with_orders(redis, format=ledger_format)
    await ledger.set(state="ended", available=0)

    assert await ledger.give_back((1, 1), (2, 2)) == [Answer("RELEASED", ("3", "0")), Answer("RELEASED", ("4", "0"))]

    events = [(seq, event[b"quantity"], event[b"delta"], event[b"balance"]) for seq, event in await ledger.events()]
    assert events[2:] == [(3, b"2", b"0", b"0"), (4, b"3", b"0", b"0")]
    assert await ledger.numbers("available", "seq") == (0, 4)
    assert await ledger.holding("ann") == "0 1"
    assert (await ledger.entry(1) or "").endswith(" released")
    assert await ledger.give_back((1, 1)) == [Answer("ALREADY")]


async def test_a_settled_ledger_takes_nothing_back(redis: aioredis.Redis) -> None:
    """SETTLED for every pair: from then on Postgres alone moves the product's stock."""
    ledger = await ledger_with_orders(redis)
    await ledger.set(state="settled")
    before = await everything(redis)

    assert await ledger.give_back((1, 1), (2, 2)) == [Answer("SETTLED"), Answer("SETTLED")]
    assert await everything(redis) == before


async def test_another_epoch_is_stale(redis: aioredis.Redis) -> None:
    """STALE_EPOCH for every pair: an order of an old epoch is not given back to a new one."""
    ledger = await ledger_with_orders(redis)
    for epoch in ("2", "fenced.1"):
        await ledger.set(epoch=epoch)
        before = await everything(redis)
        assert await ledger.give_back((1, 1), (2, 2)) == [Answer("STALE_EPOCH"), Answer("STALE_EPOCH")]
        assert await everything(redis) == before


async def test_a_ledger_that_is_missing_or_loading_is_not_loaded(redis: aioredis.Redis) -> None:
    """NOT_LOADED, and nothing is made up (F32)."""
    assert await (await sale_of_tests(redis)).give_back((1, 1), (2, 2)) == [Answer("NOT_LOADED")] * 2
    assert await everything(redis) == {}

    ledger = await begun_ledger(redis)
    before = await everything(redis)
    assert await ledger.give_back((1, 1)) == [Answer("NOT_LOADED")]
    assert await everything(redis) == before


async def test_a_ledger_without_orders_knows_none(redis: aioredis.Redis) -> None:
    """F32: the orders' key does not exist before the first order."""
    ledger = await open_ledger(redis)
    before = await everything(redis)

    assert await ledger.give_back((1, 1)) == [Answer("UNKNOWN")]
    assert await everything(redis) == before


@pytest.mark.parametrize("name", ["sale", "buyers", "orders", "stream"])
async def test_a_key_of_a_wrong_type_is_an_error_and_nothing_is_written(redis: aioredis.Redis, name: str) -> None:
    """F32."""
    ledger = await ledger_with_orders(redis)
    await redis.delete(getattr(ledger.keys, name))
    await redis.set(getattr(ledger.keys, name), "not a ledger")
    before = await everything(redis)

    with pytest.raises(NotSent, match="WRONGTYPE"):
        await ledger.give_back((1, 1), (2, 2))

    assert await everything(redis) == before


@pytest.mark.parametrize("holding", [None, "", "many", "-1 1"])
async def test_a_buyer_who_is_missing_or_unreadable_is_an_error_and_nothing_is_written(
    redis: aioredis.Redis, holding: str | None
) -> None:
    """A ledger that contradicts itself is not repaired by guessing."""
    ledger = await ledger_with_orders(redis)
    if holding is None:
        await command(redis, "HDEL", ledger.keys.buyers, "bob")
    else:
        await command(redis, "HSET", ledger.keys.buyers, "bob", holding)
    before = await everything(redis)

    with pytest.raises(NotSent):
        await ledger.give_back((1, 1), (2, 2))

    assert await everything(redis) == before


@pytest.mark.parametrize("ahead", [3, 4])
async def test_a_stream_that_is_ahead_of_the_ledger_is_an_error_and_nothing_is_written(
    redis: aioredis.Redis, ahead: int
) -> None:
    """The append is the first write, because it is the one that can still be refused."""
    ledger = await ledger_with_orders(redis)
    await redis.xadd(ledger.keys.stream, {"kind": "released"}, id=f"{ahead}-0")
    before = await everything(redis)

    with pytest.raises(NotSent, match=AHEAD):
        await ledger.give_back((1, 1), (2, 2))

    assert await everything(redis) == before
