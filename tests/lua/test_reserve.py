"""`reserve.lua`: who gets a unit, decided for many buyers in one step that is wholly done or wholly not."""

from collections.abc import Callable
from typing import Any

import pytest
import redis.asyncio as aioredis

from shop.ledger.client import Answer
from tests.lua.ledgers import FORMATS, LATER_MS, Ledger, command, everything, open_ledger, order_id, words


@FORMATS
async def test_a_reservation_moves_the_unit_and_writes_its_event_in_one_step(
    redis: aioredis.Redis, ledger_format: int
) -> None:
    """RESERVED: the sale, the buyer, the order and the stream all change, and agree (I1, I2)."""
    ledger = await open_ledger(redis, available=10, format=ledger_format)
    before = await ledger.fields()

    [answer] = await ledger.buy((1, "ann", 3))

    assert (answer.word, answer.fields[:2]) == ("RESERVED", ("1", "7"))
    reserved_ms = answer.fields[2]
    assert await ledger.fields() == {**before, "available": "7", "seq": "1"}
    assert await ledger.entry(1) == f"ann 3 1 {reserved_ms} held"
    assert await ledger.holding("ann") == "3 1"
    assert await ledger.events() == [
        (
            1,
            {
                b"kind": b"reserved",
                b"order": order_id(1),
                b"user": b"ann",
                b"quantity": b"3",
                b"delta": b"-3",
                b"balance": b"7",
                b"price": b"990",
                b"at": reserved_ms.encode(),
            },
        )
    ]


@pytest.mark.parametrize("units", [1, 2, 7])
async def test_exactly_as_many_units_are_sold_as_there_are(redis: aioredis.Redis, units: int) -> None:
    """The boundary N: not one less, not one more (F2)."""
    ledger = await open_ledger(redis, available=units)

    answers = [(await ledger.buy((number, f"user{number}", 1)))[0] for number in range(units + 2)]

    assert words(answers) == ["RESERVED"] * units + ["SOLD_OUT"] * 2
    assert answers[-1].fields == (str(units), "0")
    assert await ledger.numbers("available", "seq") == (0, units)


@FORMATS
async def test_exactly_as_many_units_are_sold_within_one_batch(redis: aioredis.Redis, ledger_format: int) -> None:
    """Later requests of a batch see the earlier ones; every balance is the one before it minus one (I2)."""
    ledger = await open_ledger(redis, available=200, format=ledger_format)

    answers = await ledger.buy(*((number, f"user{number}", 1) for number in range(256)))

    assert words(answers) == ["RESERVED"] * 200 + ["SOLD_OUT"] * 56
    assert [answer.fields[:2] for answer in answers[:200]] == [(str(n + 1), str(199 - n)) for n in range(200)]
    events = [(seq, event[b"order"], event[b"balance"]) for seq, event in await ledger.events()]
    assert events == [(n + 1, order_id(n), b"%d" % (199 - n)) for n in range(200)]
    assert await ledger.numbers("available", "seq") == (0, 200)
    assert await command(redis, "HLEN", ledger.keys.orders) == 200
    assert await command(redis, "HLEN", ledger.keys.buyers) == 200


async def test_the_last_unit_wanted_twice_in_one_batch_goes_to_the_first(redis: aioredis.Redis) -> None:
    """F1, without a network between the two."""
    ledger = await open_ledger(redis, available=1)

    assert words(await ledger.buy((1, "ann", 1), (2, "bob", 1))) == ["RESERVED", "SOLD_OUT"]

    assert await ledger.entry(2) is None
    assert await ledger.holding("bob") is None


async def test_five_wanted_with_three_left_take_nothing_and_three_then_succeed(redis: aioredis.Redis) -> None:
    ledger = await open_ledger(redis, available=3)

    assert await ledger.buy((1, "ann", 5)) == [Answer("SOLD_OUT", ("0", "3"))]
    [answer] = await ledger.buy((1, "ann", 3))

    assert (answer.word, answer.fields[:2]) == ("RESERVED", ("1", "0"))


async def test_whoever_wants_less_is_served_behind_one_who_wants_too_much(redis: aioredis.Redis) -> None:
    ledger = await open_ledger(redis, available=3)

    assert words(await ledger.buy((1, "ann", 5), (2, "bob", 2), (3, "cid", 2), (4, "dan", 1))) == [
        "SOLD_OUT",
        "RESERVED",
        "SOLD_OUT",
        "RESERVED",
    ]


async def test_a_repeat_is_the_first_order_and_changes_nothing(redis: aioredis.Redis) -> None:
    """REPLAYED: seq, quantity and time of the first answer (F15, F21)."""
    ledger = await open_ledger(redis)
    [first] = await ledger.buy((1, "ann", 2))
    before = await everything(redis)

    answers = await ledger.buy((1, "ann", 2))

    assert answers == [Answer("REPLAYED", ("1", "2", first.fields[2], "held"))]
    assert await everything(redis) == before


async def test_the_same_order_twice_in_one_batch_is_one_order(redis: aioredis.Redis) -> None:
    """F21: both clicks of a double click may travel together."""
    ledger = await open_ledger(redis, available=10)

    first, second, third = await ledger.buy((1, "ann", 2), (1, "ann", 2), (1, "ann", 3))

    assert first.word == "RESERVED"
    assert second == Answer("REPLAYED", ("1", "2", first.fields[2], "held"))
    assert third == Answer("MISMATCH", ("1", "2", "held"))
    assert await ledger.numbers("available", "seq") == (8, 1)
    assert await ledger.holding("ann") == "2 1"


@pytest.mark.parametrize(("user", "quantity"), [("ann", 3), ("ann", 1), ("bob", 2), ("ann", -2), ("ann", "two")])
async def test_a_known_order_with_another_user_or_quantity_is_a_mismatch(
    redis: aioredis.Redis, user: str, quantity: int | str
) -> None:
    """MISMATCH names the seq and the quantity of the order that is there, and whether it is open (F21)."""
    ledger = await open_ledger(redis)
    await ledger.buy((1, "ann", 2))
    before = await everything(redis)

    assert await ledger.buy((1, user, quantity)) == [Answer("MISMATCH", ("1", "2", "held"))]
    assert await everything(redis) == before

    await ledger.give_back((1, 1))
    assert await ledger.buy((1, user, quantity)) == [Answer("MISMATCH", ("1", "2", "released"))]


async def test_a_released_order_stays_and_a_late_duplicate_does_not_buy_again(redis: aioredis.Redis) -> None:
    """REPLAYED … released: the entry is never deleted (I7)."""
    ledger = await open_ledger(redis)
    [first] = await ledger.buy((1, "ann", 2))
    await ledger.give_back((1, 1))
    before = await everything(redis)

    assert await ledger.buy((1, "ann", 2)) == [Answer("REPLAYED", ("1", "2", first.fields[2], "released"))]
    assert await everything(redis) == before


async def _sold_out(ledger: Ledger) -> None:
    await ledger.set(available=0)


async def _ended_by_the_clock(ledger: Ledger) -> None:
    await ledger.set(ends_ms=1)


async def _ended(ledger: Ledger) -> None:
    await ledger.set(state="ended")


async def _settled(ledger: Ledger) -> None:
    await ledger.set(state="settled")


async def _paused(ledger: Ledger) -> None:
    await ledger.set(state="paused")


async def _over_units(ledger: Ledger) -> None:
    await ledger.set(units_per_user=2)


async def _over_orders(ledger: Ledger) -> None:
    await ledger.set(orders_per_user=1)


async def _not_started(ledger: Ledger) -> None:
    await ledger.set(starts_ms=LATER_MS * 2, ends_ms=LATER_MS * 3)


async def _backlog(ledger: Ledger) -> None:
    await ledger.set(backlog_max=1)


REFUSALS: list[tuple[Callable[[Ledger], Any], str]] = [
    (_sold_out, "SOLD_OUT 1 0"),
    (_ended_by_the_clock, "ENDED 1 1"),
    (_ended, "ENDED 1 {ends_ms}"),
    (_settled, "ENDED 1 {ends_ms}"),
    (_paused, "PAUSED 1"),
    (_over_units, "OVER_LIMIT 1 2"),
    (_over_orders, "OVER_LIMIT 1 2"),
    (_not_started, f"NOT_OPEN 1 {LATER_MS * 2}"),
    (_backlog, "BACKLOG 1"),
]


@pytest.mark.parametrize(("refuse", "refusal"), REFUSALS)
async def test_a_repeat_comes_before_every_refusal_and_a_refusal_writes_nothing(
    redis: aioredis.Redis, refuse: Callable[[Ledger], Any], refusal: str
) -> None:
    """In every state of the sale the winner's retry finds its order, and a refusal leaves no trace (I9)."""
    ledger = await open_ledger(redis, available=10)
    [first] = await ledger.buy((1, "ann", 2))
    await refuse(ledger)
    before = await everything(redis)

    answers = await ledger.buy((2, "ann", 1), (1, "ann", 2), (1, "ann", 1))

    ends_ms = (await ledger.fields())["ends_ms"]
    assert [" ".join((answer.word, *answer.fields)) for answer in answers] == [
        refusal.format(ends_ms=ends_ms),
        f"REPLAYED 1 2 {first.fields[2]} held",
        "MISMATCH 1 2 held",
    ]
    assert await everything(redis) == before


async def test_a_pause_does_not_hide_that_the_sale_is_over(redis: aioredis.Redis) -> None:
    """A paused sale whose window has passed has ended; one before its start is paused."""
    ledger = await open_ledger(redis)
    await ledger.set(state="paused", ends_ms=1)
    assert words(await ledger.buy((1, "ann", 1))) == ["ENDED"]
    await ledger.set(starts_ms=LATER_MS * 2, ends_ms=LATER_MS * 3)
    assert words(await ledger.buy((1, "ann", 1))) == ["PAUSED"]


async def test_a_buyer_never_has_more_units_than_allowed_over_all_their_orders(redis: aioredis.Redis) -> None:
    """OVER_LIMIT names the units that the buyer has, in one batch as over several (F28, I5)."""
    ledger = await open_ledger(redis, available=100, units_per_user=5)

    assert words(await ledger.buy((1, "ann", 2), (2, "ann", 2), (3, "ann", 2), (4, "ann", 1), (5, "ann", 1))) == [
        "RESERVED",
        "RESERVED",
        "OVER_LIMIT",
        "RESERVED",
        "OVER_LIMIT",
    ]
    assert await ledger.buy((6, "ann", 1)) == [Answer("OVER_LIMIT", ("3", "5"))]
    assert await ledger.holding("ann") == "5 3"
    assert words(await ledger.buy((7, "bob", 5), (8, "cid", 6))) == ["RESERVED", "OVER_LIMIT"]


async def test_a_buyer_never_makes_more_orders_than_allowed_even_if_they_give_them_back(redis: aioredis.Redis) -> None:
    ledger = await open_ledger(redis, units_per_user=5, orders_per_user=2)

    assert words(await ledger.buy((1, "ann", 1), (2, "ann", 1), (3, "ann", 1))) == [
        "RESERVED",
        "RESERVED",
        "OVER_LIMIT",
    ]
    await ledger.give_back((1, 1), (2, 2))
    assert await ledger.buy((3, "ann", 1)) == [Answer("OVER_LIMIT", ("4", "0"))]


async def test_units_that_came_back_count_again_for_the_limit(redis: aioredis.Redis) -> None:
    """F24: whoever cancels may buy again."""
    ledger = await open_ledger(redis, units_per_user=2)
    await ledger.buy((1, "ann", 2))
    assert words(await ledger.buy((2, "ann", 1))) == ["OVER_LIMIT"]

    await ledger.give_back((1, 1))

    assert words(await ledger.buy((2, "ann", 2))) == ["RESERVED"]
    assert await ledger.holding("ann") == "2 2"


async def test_the_limit_is_told_before_the_stock(redis: aioredis.Redis) -> None:
    """Buyers who have had their share are told that, and not that all is sold."""
    ledger = await open_ledger(redis, available=1, units_per_user=1)
    await ledger.buy((1, "ann", 1))

    assert words(await ledger.buy((2, "ann", 1), (3, "bob", 1))) == ["OVER_LIMIT", "SOLD_OUT"]


@pytest.mark.parametrize(
    "quantity",
    [0, -1, -(10**30), 10**30, 2**31, "1.5", "-0.5", "nan", "inf", "-inf", "", " ", "one", "1 2", "0x", "1;2", "\x00"],
)
async def test_a_quantity_that_is_no_positive_whole_number_is_invalid(
    redis: aioredis.Redis, quantity: int | str
) -> None:
    """INVALID, although the API has checked it before: Lua checks again (F29)."""
    ledger = await open_ledger(redis)
    before = await everything(redis)

    assert await ledger.buy((1, "ann", quantity)) == [Answer("INVALID")]
    assert await everything(redis) == before


async def test_an_invalid_request_does_not_disturb_the_others_of_its_batch(redis: aioredis.Redis) -> None:
    ledger = await open_ledger(redis)

    assert words(await ledger.buy((1, "ann", 1), (2, "bob", -5), (3, "cid", 1))) == ["RESERVED", "INVALID", "RESERVED"]
    assert await ledger.numbers("available", "seq") == (8, 2)


async def test_the_largest_quantity_is_a_number_of_units_like_any_other(redis: aioredis.Redis) -> None:
    """No number on the way is rounded or written with an exponent."""
    most = 2**31 - 1
    ledger = await open_ledger(redis, available=most, units_per_user=most)

    [answer] = await ledger.buy((1, "ann", most))

    assert (answer.word, answer.fields[:2]) == ("RESERVED", ("1", "0"))
    assert await ledger.holding("ann") == f"{most} 1"
    assert (await ledger.events())[0][1][b"delta"] == b"-2147483647"


async def test_a_long_sequence_is_counted_exactly(redis: aioredis.Redis) -> None:
    ledger = await open_ledger(redis)
    await ledger.set(seq=10**12)

    [answer] = await ledger.buy((1, "ann", 1))

    assert answer.seq == 10**12 + 1
    assert (await ledger.fields())["seq"] == str(10**12 + 1)
    assert [seq for seq, _ in await ledger.events()] == [10**12 + 1]


async def test_events_that_nobody_records_stop_the_sale_at_the_bound(redis: aioredis.Redis) -> None:
    """BACKLOG counts the events of the batch itself too, and ends when the stream is trimmed."""
    ledger = await open_ledger(redis, available=100, backlog_max=3)

    assert words(await ledger.buy(*((number, f"user{number}", 1) for number in range(5)))) == [
        *["RESERVED"] * 3,
        *["BACKLOG"] * 2,
    ]
    assert await ledger.buy((9, "zoe", 1)) == [Answer("BACKLOG", ("3",))]
    await redis.xtrim(ledger.keys.stream, minid="4-0", approximate=False)
    assert words(await ledger.buy((9, "zoe", 1), (10, "yan", 1))) == ["RESERVED", "RESERVED"]
    assert words(await ledger.buy((11, "xia", 1), (12, "wes", 1))) == ["RESERVED", "BACKLOG"]
    await redis.xtrim(ledger.keys.stream, minid="6-0", approximate=False)
    assert words(await ledger.buy((12, "wes", 1), (13, "viv", 1), (14, "una", 1))) == ["RESERVED"] * 2 + ["BACKLOG"]
