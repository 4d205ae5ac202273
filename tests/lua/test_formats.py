"""The formats of a ledger's events: what the scripts write in each, and that they refuse one that they do not know."""

from datetime import UTC, datetime

import msgspec
import pytest
import redis.asyncio as aioredis

from shop.ledger.events import LedgerEvent, UnreadableEvent, evidence, parse_event, unpacked
from shop.ledger.stream import events_from
from tests.lua.ledgers import FORMATS, NOON_MS, Ledger, call, command, everything, honour, open_ledger, order_id, words

UNKNOWN = pytest.mark.parametrize("unknown", ["3", "0", "", "two", "1 ", "02"])
NOON = datetime.fromtimestamp(NOON_MS / 1000, UTC)
GOOD = order_id(1) + b"ann 3 -3 7 990 1800000000123"
BATCH = b"2 990 1800000000123\n" + order_id(1) + b"ann 3 -3 7\n" + order_id(2) + b"bob 1 -1 6\n"


async def sold_and_given_back(redis: aioredis.Redis, ledger_format: int) -> Ledger:
    """Ann has reserved three of ten units, two of Bob's are honoured from what was held back, Ann's are back."""
    ledger = await open_ledger(redis, available=10, held_back=2, format=ledger_format)
    await ledger.buy((1, "ann", 3))
    await honour(ledger, (2, "b_o-B", 2))
    await ledger.give_back((1, 1))
    return ledger


def times(entries: list[LedgerEvent]) -> list[bytes]:
    """Their moments, as the scripts write them."""
    return [b"%d" % round(entry.at.timestamp() * 1000) for entry in entries]


async def test_in_format_1_every_field_has_its_name(redis: aioredis.Redis) -> None:
    """As the release before wrote it, which has to read it if there is a way back."""
    entries = await (await sold_and_given_back(redis, 1)).entries()

    reserved, _, released = times([parse_event(*entry) for entry in entries])
    ann = {b"order": order_id(1), b"user": b"ann", b"quantity": b"3", b"price": b"990"}
    assert entries[0] == (1, {b"kind": b"reserved", **ann, b"delta": b"-3", b"balance": b"7", b"at": reserved})
    assert entries[2] == (3, {b"kind": b"released", **ann, b"delta": b"3", b"balance": b"10", b"at": released})
    assert [fields[b"kind"] for _, fields in entries] == [b"reserved", b"honoured", b"released"]


async def test_in_format_2_a_call_is_one_field(redis: aioredis.Redis) -> None:
    """Its name is the kind; its value has a line for all events, and one for each behind the order's bytes."""
    ledger = await open_ledger(redis, available=10, format=2)
    await ledger.buy((1, "ann", 3), (1, "ann", 3), (2, "b_o-B", 2), (9, "eve", 99))
    await ledger.give_back((2, 2), (1, 1))

    first, _, second, _ = times([parse_event(*event) for event in await ledger.entries()])
    assert await redis.xrange(ledger.keys.stream) == [
        (b"2-0", {b"reserved": b"2 990 %b\n%bann 3 -3 7\n%bb_o-B 2 -2 5\n" % (first, order_id(1), order_id(2))}),
        (b"4-0", {b"released": b"2 990 %b\n%bb_o-B 2 2 7\n%bann 3 3 10\n" % (second, order_id(2), order_id(1))}),
    ]


async def test_events_of_format_2_are_read_from_any_of_them_on(redis: aioredis.Redis) -> None:
    """However many a call has made, and however many of them were read before."""
    ledger = await open_ledger(redis, available=1_000, format=2)
    number = 0
    for orders in (1, 3, 1, *[2] * 20, 7):
        await ledger.buy(*((number := number + 1, f"user{number}", 1) for _ in range(orders)))
    await ledger.change(1, "pause")

    async def read(after: int, count: int) -> list[int]:
        found = await events_from(redis, ledger.sale.sale_id, ledger.sale.epoch, after + 1, count)
        assert [parse_event(*each).user_id for each in found if b"kind" not in each[1]] == [
            f"user{seq}" for seq, fields in found if b"kind" not in fields
        ]
        return [seq for seq, _ in found]

    for after in range(number + 2):
        for count in (1, 2, 17, 45, 1_000):
            assert await read(after, count) == [*range(after + 1, number + 2)][:count]


async def test_both_formats_say_the_same(redis: aioredis.Redis) -> None:
    """Kind, order, buyer, quantity, delta, balance and price, for orders and changes, and every key but the stream."""
    events, hashes = [], []
    for ledger_format in (1, 2):
        await redis.flushdb()
        ledger = await sold_and_given_back(redis, ledger_format)
        await ledger.change(1, "pause")
        found = [parse_event(*entry) for entry in await ledger.entries()]
        events.append([msgspec.structs.replace(event, at=NOON) for event in found])
        buyers = await command(redis, "HGETALL", ledger.keys.buyers)
        hashes.append((await ledger.numbers("seq", "available"), buyers, await redis.dump(ledger.keys.winners)))

    assert events[0] == events[1]
    assert hashes[0] == hashes[1]


async def test_a_ledger_without_a_format_was_loaded_before_there_were_two(redis: aioredis.Redis) -> None:
    """It is in format 1, and goes on so."""
    ledger = await open_ledger(redis, available=10)
    await command(redis, "HDEL", ledger.keys.sale, "format")

    await ledger.buy((1, "ann", 3))
    await ledger.give_back((1, 1))

    assert [fields.get(b"kind") for _, fields in await ledger.entries()] == [b"reserved", b"released"]


@UNKNOWN
async def test_a_format_that_is_not_known_is_refused_before_the_first_write(
    redis: aioredis.Redis, unknown: str
) -> None:
    """NOT_LOADED for the whole batch, of purchases, promises and releases: a later release has to do it."""
    ledger = await sold_and_given_back(redis, 2)
    await ledger.set(format=unknown)
    before = await everything(redis)

    assert words(await ledger.buy((3, "cid", 1), (2, "b_o-B", 2))) == ["NOT_LOADED", "NOT_LOADED"]
    assert words(await honour(ledger, (3, "cid", 1))) == ["NOT_LOADED"]
    assert words(await ledger.give_back((2, 2), (1, 1))) == ["NOT_LOADED", "NOT_LOADED"]
    assert await everything(redis) == before


@FORMATS
async def test_256_orders_of_the_longest_names_fit_into_one_call(redis: aioredis.Redis, ledger_format: int) -> None:
    """What a batch writes is unpacked on the stack of Lua, which has an end; every winner is noted."""
    ledger = await open_ledger(redis, available=256, winner_bits=2**20, format=ledger_format)

    answers = await ledger.buy(*((number, f"{number:064d}", 1) for number in range(256)))

    assert words(answers) == ["RESERVED"] * 256
    assert await redis.bitcount(ledger.keys.winners) == 256
    assert [event.user_id for event in (parse_event(*entry) for entry in await ledger.entries())] == [
        f"{number:064d}" for number in range(256)
    ]


async def test_an_empty_batch_changes_nothing(redis: aioredis.Redis) -> None:
    """In particular it makes no key of winners, which alone would be half a ledger."""
    ledger = await open_ledger(redis)
    await ledger.set(available=0)
    before = await everything(redis)

    assert words(await ledger.buy((1, "ann", 1))) == ["SOLD_OUT"]
    assert await call(ledger, "release", ledger.sale.epoch) == []
    assert await everything(redis) == before


@pytest.mark.parametrize(
    "value",
    [
        b"",
        GOOD[:15],
        GOOD[:16],
        GOOD[16:],
        GOOD + b" ",
        GOOD + b" 1",
        GOOD.rpartition(b" ")[0],
        GOOD.replace(b"-3", b"-3.5"),
        GOOD.replace(b" 3 ", b" 0 "),
        GOOD.replace(b" 7 ", b" -1 "),
        GOOD.replace(b" 7 ", b" 2147483648 "),
        GOOD.replace(b"ann", b"an n"),
        GOOD.replace(b"ann", b"\xff"),
        GOOD.replace(b"1800000000123", b"9" * 30),
    ],
)
def test_what_no_script_packs_is_unreadable_and_kept_as_evidence(value: bytes) -> None:
    """And whatever it is, it is text for Postgres."""
    assert parse_event(1, {b"reserved": GOOD}).user_id == "ann"
    with pytest.raises(UnreadableEvent, match="entry 1 "):
        parse_event(1, {b"reserved": value})

    shown = evidence({b"reserved": value})
    assert all(text.isascii() and "\0" not in text for pair in shown.items() for text in pair)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        BATCH.replace(b"2 990", b"3 990"),
        BATCH.replace(b"2 990", b"02 990"),
        BATCH.replace(b"2 990", b"x 990"),
        BATCH[:-1],
        BATCH[:-20],
        BATCH.partition(b"\n")[0],
        BATCH.partition(b"\n")[2],
        b"0 990 1800000000123\n",
    ],
)
def test_what_no_script_puts_together_stands_for_its_first_event(value: bytes) -> None:
    """It is poison right above what is recorded, and the entries before and behind it are read."""
    good = {b"reserved": BATCH}
    found = list(unpacked([(12, good), (14, {b"reserved": value}), (16, good)], after=11))

    assert [seq for seq, _ in found] == [12, 13, 15, 16]
    for seq, fields in found:
        if seq == 13:
            with pytest.raises(UnreadableEvent, match="entry 13 "):
                parse_event(seq, fields)
        else:
            assert parse_event(seq, fields).user_id in {"ann", "bob"}


def test_evidence_of_format_2_can_be_read_by_people() -> None:
    """Each field under its name, and the order as the shop shows it."""
    assert evidence({b"reserved": GOOD.replace(b" 7 ", b" 5 ")}) == {
        "kind": "reserved",
        "order": "000d0aff-207d-7b3a-0000-000000000001",
        "user": "ann",
        "quantity": "3",
        "delta": "-3",
        "balance": "5",
        "price": "990",
        "at": "1800000000123",
    }
    assert evidence({b"reserved": b"\x00junk"}) == {"reserved": "\\x00junk"}
