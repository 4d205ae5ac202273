"""`reserve.lua` for orders that were promised before a loss, and the other scripts as far as a recovery uses them."""

import pytest
import redis.asyncio as aioredis

from shop.ledger import loading
from shop.ledger.client import Answer, LedgerOrder
from shop.ledger.order_ids import winner_bit
from tests.lua.ledgers import (
    FORMATS,
    TIMEOUT_SECONDS,
    TOKEN,
    Ledger,
    begun_ledger,
    everything,
    honour,
    open_ledger,
    order_id,
)


async def add(ledger: Ledger, *orders: tuple[int, LedgerOrder], token: str = TOKEN) -> Answer:
    """Load orders into a ledger that is loading."""
    pairs = [(order_id(number), order) for number, order in orders]
    sale = ledger.sale
    return await loading.add_orders(
        ledger.redis, sale.sale_id, sale.epoch, token=token, orders=pairs, timeout=TIMEOUT_SECONDS
    )


async def open_as(ledger: Ledger, state: str) -> Answer:
    sale = ledger.sale
    return await loading.open_load(
        ledger.redis, sale.sale_id, sale.epoch, token=TOKEN, state=state, timeout=TIMEOUT_SECONDS
    )


@FORMATS
async def test_what_is_held_back_is_taken_before_what_is_on_sale(redis: aioredis.Redis, ledger_format: int) -> None:
    """The delta of the event is what left `available`: none, a part, and all of the order (I2, I3)."""
    ledger = await open_ledger(redis, available=4, held_back=3, format=ledger_format)

    answers = await honour(ledger, (1, "ann", 2), (2, "bob", 2), (3, "cem", 1))

    assert [(answer.word, answer.fields[1]) for answer in answers] == [
        ("RESERVED", "4"),
        ("RESERVED", "3"),
        ("RESERVED", "2"),
    ]
    assert await ledger.numbers("available", "held_back", "seq") == (2, 0, 3)
    events = [(fields[b"kind"], fields[b"delta"], fields[b"balance"]) for _, fields in await ledger.events()]
    assert events == [(b"honoured", b"0", b"4"), (b"honoured", b"-1", b"3"), (b"honoured", b"-1", b"2")]


async def test_nobody_else_gets_what_is_held_back(redis: aioredis.Redis) -> None:
    """I4: an ordinary purchase sees only what is on sale."""
    ledger = await open_ledger(redis, available=1, held_back=5)

    assert [answer.word for answer in await ledger.buy((1, "ann", 1), (2, "bob", 1))] == ["RESERVED", "SOLD_OUT"]
    assert await ledger.numbers("available", "held_back") == (0, 5)


@pytest.mark.parametrize("state", ["recovering", "open", "paused", "ended"])
async def test_a_promise_is_honoured_in_every_state_and_window(redis: aioredis.Redis, state: str) -> None:
    """It was made when it was allowed; neither the state, nor the window, nor the backlog refuses it now."""
    ledger = await open_ledger(redis, held_back=1, backlog_max=0)
    await ledger.set(state=state, starts_ms=1, ends_ms=2)

    assert [answer.word for answer in await honour(ledger, (1, "ann", 1))] == ["RESERVED"]


async def test_a_promise_is_not_honoured_twice_nor_above_the_limit_nor_without_a_unit(redis: aioredis.Redis) -> None:
    """I4, I5, I7: the replay check, the limit and the units hold for it as for everybody."""
    ledger = await open_ledger(redis, available=1, held_back=2, units_per_user=2)
    await honour(ledger, (1, "ann", 2))
    before = await everything(redis)

    answers = await honour(ledger, (1, "ann", 2), (2, "ann", 1), (3, "bob", 2), (1, "bob", 2))

    assert [answer.word for answer in answers] == ["REPLAYED", "OVER_LIMIT", "SOLD_OUT", "MISMATCH"]
    assert await everything(redis) == before


async def test_a_settled_sale_honours_nothing(redis: aioredis.Redis) -> None:
    """After it, units are moved in Postgres alone."""
    ledger = await open_ledger(redis, held_back=2)
    await ledger.set(state="settled")

    assert [answer.word for answer in await honour(ledger, (1, "ann", 1))] == ["ENDED"]


async def test_while_promises_are_honoured_nobody_else_is_served(redis: aioredis.Redis) -> None:
    """NOT_LOADED for purchases, releases and changes; only the loader's token opens it, once."""
    ledger = await begun_ledger(redis, held_back=1)
    assert await open_as(ledger, "recovering") == Answer("OPENED")
    assert (await honour(ledger, (1, "ann", 1)))[0].word == "RESERVED"

    assert [answer.word for answer in await ledger.buy((2, "bob", 1))] == ["NOT_LOADED"]
    assert [answer.word for answer in await ledger.give_back((1, 1))] == ["NOT_LOADED"]
    assert (await ledger.change(1, "pause")).word == "NOT_LOADED"
    assert await open_as(ledger, "paused") == Answer("OPENED")
    assert await open_as(ledger, "open") == Answer("LOADED")
    assert (await ledger.fields())["state"] == "paused"


async def test_loaded_orders_count_for_their_buyers_once_and_released_ones_hold_no_units(redis: aioredis.Redis) -> None:
    """I5, I7, I8: a chunk that comes twice changes nothing; old orders are found, and go back by their old number."""
    ledger = await begun_ledger(redis, available=5, units_per_user=3)
    chunk = (
        (1, LedgerOrder("ann", 2, 71, 1_000, held=True)),
        (2, LedgerOrder("ann", 1, 72, 1_000, held=False)),
        (3, LedgerOrder("bob", 1, 73, 1_000, held=True)),
    )
    assert [await add(ledger, *chunk), await add(ledger, *chunk)] == [Answer("ADDED")] * 2
    await open_as(ledger, "open")

    assert [await ledger.holding(user) for user in ("ann", "bob")] == ["2 2", "1 1"]
    answers = await ledger.buy((1, "ann", 2), (2, "ann", 1), (4, "ann", 2))
    assert [answer.word for answer in answers] == ["REPLAYED", "REPLAYED", "OVER_LIMIT"]
    assert answers[1].fields[-1] == "released"
    assert [answer.word for answer in await ledger.give_back((1, 71), (2, 72), (3, 1))] == [
        "RELEASED",
        "ALREADY",
        "UNKNOWN",
    ]
    assert await ledger.numbers("available") == (7,)


async def test_loaded_orders_are_noted_as_winners_like_new_ones(redis: aioredis.Redis) -> None:
    """Else the sold-out latch would take them for losers, and their repeats would not find them (I7)."""
    ledger = await begun_ledger(redis, available=1, winner_bits=1_024)
    held, released = LedgerOrder("ann", 1, 71, 1_000, held=True), LedgerOrder("bob", 1, 72, 1_000, held=False)
    await add(ledger, (1, held), (2, released))
    await open_as(ledger, "open")
    await ledger.buy((3, "cem", 1))

    noted = [await redis.getbit(ledger.keys.winners, winner_bit(order_id(number), 1_024)) for number in (1, 2, 3, 4)]

    assert noted == [1, 1, 1, 0]


async def test_only_the_loader_adds_orders_and_only_while_it_loads(redis: aioredis.Redis) -> None:
    """WRONG_TOKEN, LOADED: who was stopped and thawed writes nothing."""
    ledger = await begun_ledger(redis)
    order = (1, LedgerOrder("ann", 1, 1, 1_000, held=True))

    assert await add(ledger, order, token="another") == Answer("WRONG_TOKEN")
    for state in ("recovering", "open"):
        await open_as(ledger, state)
        assert await add(ledger, order) == Answer("LOADED")
    assert await ledger.entry(1) is None


async def test_a_fence_is_lifted_by_its_own_recovery_or_a_later_one_and_by_nobody_else(redis: aioredis.Redis) -> None:
    """A worker that was stopped in an earlier recovery can neither fence nor lift any more."""
    ledger, sale_id = await open_ledger(redis), 7
    await loading.fence(redis, sale_id, [1, 2], number=2)
    assert [answer.word for answer in await ledger.buy((1, "ann", 1))] == ["STALE_EPOCH"]

    await loading.fence(redis, sale_id, [1], number=1)
    assert await loading.lift_fence(redis, sale_id, 1, number=1) == Answer("NEWER")
    assert (await ledger.fields())["epoch"] == "fenced.2"
    assert await loading.lift_fence(redis, sale_id, 1, number=2) == Answer("LIFTED")
    assert [answer.word for answer in await ledger.buy((1, "ann", 1))] == ["RESERVED"]
    assert await loading.lift_fence(redis, sale_id, 2, number=2) == Answer("MISSING")


@pytest.mark.parametrize(("state", "available"), [("open", 15), ("paused", 15), ("ended", 10)])
async def test_what_is_held_back_goes_on_sale_again_by_a_numbered_change(
    redis: aioredis.Redis, state: str, available: int
) -> None:
    """After the end its delta is 0: the units go to the product, in Postgres (I3)."""
    ledger = await open_ledger(redis, available=10, held_back=5)
    await ledger.set(state=state)

    assert await ledger.change(1, "restore") == Answer("APPLIED", ("1", str(available)))
    assert await ledger.numbers("available", "held_back") == (available, 0)
    assert await ledger.change(2, "restore") == Answer("REFUSED", ("2", "nothing_held_back"))
