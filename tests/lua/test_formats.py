"""The formats of a ledger's events: what the scripts write in each, and that they refuse one that they do not know."""

from datetime import UTC, datetime

import msgspec
import pytest
import redis.asyncio as aioredis

from shop.ledger.events import LedgerEvent, UnreadableEvent, evidence, parse_event
from tests.lua.ledgers import FORMATS, NOON_MS, Ledger, call, command, everything, honour, open_ledger, order_id, words

UNKNOWN = pytest.mark.parametrize("unknown", ["3", "0", "", "two", "1 ", "02"])
NOON = datetime.fromtimestamp(NOON_MS / 1000, UTC)
GOOD = order_id(1) + b"ann 3 -3 7 990 1800000000123"


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


async def test_in_format_2_an_order_is_one_field(redis: aioredis.Redis) -> None:
    """Its name is the kind; its value is the order's bytes, whatever they are, and six words."""
    entries = await (await sold_and_given_back(redis, 2)).entries()

    reserved, honoured, released = times([parse_event(*entry) for entry in entries])
    assert entries == [
        (1, {b"reserved": order_id(1) + b"ann 3 -3 7 990 " + reserved}),
        (2, {b"honoured": order_id(2) + b"b_o-B 2 0 7 990 " + honoured}),
        (3, {b"released": order_id(1) + b"ann 3 3 10 990 " + released}),
    ]


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
