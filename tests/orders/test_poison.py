"""Entries that cannot be true: the sale stops, nothing is thrown away, and an operator decides."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import pytest

from shop.errors import NotFound, SaleNotFound, SaleStateConflict
from shop.ledger import stream
from shop.ledger.events import named_fields
from shop.ledger.keys import ledger_keys
from shop.ledger.order_ids import keyed_order_id
from shop.orders.poison import quarantine
from shop.redis import script
from shop.sales.models import LedgerRow, Sale
from shop.sales.repository import update_sale
from shop.settings import Settings
from shop.worker import running_worker
from tests.crowd import recorded
from tests.harness import TESTER, Shop, outcome, wait_until
from tests.processes import own_shop
from tests.recovery.losses import assert_kept, until_recovered, until_sold

STOPPED_SECONDS = 5.0
UNITS = 10

Value = str | bytes | int


class Poison(NamedTuple):
    """What is wrong with the entry, the field of a good one that it replaces, and what it takes from the balance."""

    name: str
    fields: Mapping[str, Value]
    units: int = 1
    packed: bool = True
    """Whether it is an entry of format 2."""


# A good entry for one unit, with seq 2 after a balance of 9, would be: reserved, quantity 1, delta -1, balance 8.
POISONS = [
    Poison("no units", {"quantity": 0, "delta": 0, "balance": 9}, units=0),
    Poison("an order that is there already", {"order": b"the first"}),
    Poison("a balance that does not follow", {"balance": 5}),
    Poison("a balance that does not follow, in format 1", {"balance": 5}, packed=False),
    Poison("a delta of less than its quantity", {"quantity": 2}),
    Poison("a delta of more than its quantity", {"delta": -2, "balance": 7}, units=2),
    Poison("a user id that no token has", {"user": b"\xf0\x9f\x92\xa3 \x00"}, packed=False),
    Poison("a user id with a space", {"user": b"two users"}),
    Poison(
        "the release of an order that is open",
        {"kind": "released", "order": b"the first", "delta": 1, "balance": 10},
        units=-1,
    ),
    Poison(
        "a change that nobody asked for",
        {"kind": "pause", "change": 7, "outcome": "applied", "delta": 0, "balance": 9},
        units=0,
        packed=False,
    ),
    Poison("a kind that nobody knows", {"kind": "gift"}),
]
JUNK = Poison("nothing that can be read", {}, units=0, packed=False)


class Written(NamedTuple):
    """The sale and its good orders, before and after the poison."""

    sale: Sale
    before: str
    after: str


async def write(shop: Shop, poison: Poison) -> Written:
    """Open a sale, then write a good entry, the poison as number 2, and another good one, all in one step."""
    sale = await shop.open_sale(units=UNITS)
    keys = ledger_keys(sale.id, 1)
    reserve = (script("reserve").sha, len(keys), *keys, 1, 2**50, "", 0, "")
    first, second, third = (keyed_order_id(sale.id, sale.salt, "buyer", key) for key in ("1", "2", "3"))
    good: dict[str, Value] = {"kind": "reserved", "order": second, "user": "buyer", "quantity": 1, "delta": -1}
    good |= {"balance": 8, "price": sale.price_minor, "at": 1_790_000_000_000}
    wrong = {name: first if value == b"the first" else value for name, value in poison.fields.items()}
    entry = {**good, **wrong} if wrong else {"junk": b"\xff\x00"}
    entry = packed(entry) if poison.packed else entry
    async with shop.redis.pipeline(transaction=True) as pipe:
        await pipe.execute_command("EVALSHA", *reserve, first, "before", 1)
        await pipe.execute_command("XADD", keys.stream, "2-0", *chain.from_iterable(entry.items()))
        pipe.hset(keys.sale, "seq", "2")
        pipe.hincrby(keys.sale, "available", -poison.units)
        await pipe.execute_command("EVALSHA", *reserve, third, "after", 1)
        answers = await pipe.execute()
    assert [answers[0][1][:10], answers[-1][1][:10]] == [b"RESERVED 1", b"RESERVED 3"]
    return Written(sale, str(UUID(bytes=first)), str(UUID(bytes=third)))


def packed(fields: Mapping[str, Value]) -> dict[str, Value]:
    """An entry with these fields in format 2, as if it came alone in a call."""
    kind, order, *others = fields.values()
    assert isinstance(kind, str)
    assert isinstance(order, bytes)
    *words, price, at = [value if isinstance(value, bytes) else str(value).encode() for value in others]
    return {kind: b"1 %b %b\n%b%b\n" % (price, at, order, b" ".join(words))}


async def until_stopped(shop: Shop, sale: Sale) -> str:
    """Wait until the alarm stands and nobody can buy any more; returns the alarm."""

    async def stopped() -> str | None:
        alarm = (await shop.row(sale)).alarm
        return alarm if outcome(await shop.buy(sale, quantity=UNITS)) == "sale_paused" else None

    alarm: str = await wait_until(stopped, within=STOPPED_SECONDS, reason="the sale is stopped")
    return alarm


@pytest.mark.parametrize("poison", [*POISONS, JUNK], ids=lambda poison: poison.name.replace(" ", "-"))
async def test_an_impossible_entry_stops_the_sale_and_can_be_quarantined(shop: Shop, poison: Poison) -> None:
    """Within 5 s: a pause, an alarm, what came before is recorded; set aside, it costs the sale nothing (F10)."""
    sale, before, after = await write(shop, poison)

    assert "entry 2 " in await until_stopped(shop, sale)
    assert await recorded(shop, sale) == [before]
    assert [seq for seq, _ in await stream.events_from(shop.redis, sale.id, 1, 2, 9)][:2] == [2, 3]

    row = await quarantine(shop.database, shop.redis, TESTER, sale.id, 2)
    assert (row.quantity, row.delta, row.balance) == (0, -poison.units, 9 - poison.units)
    assert row.quarantined
    recovered = await until_recovered(shop, sale, epoch=2)
    assert (recovered.paused, recovered.held_back, recovered.watermark_balance) == (False, 0, UNITS - 2)
    last = await until_sold(shop, sale)
    await assert_kept(shop, sale, [before, after, last])


def together(entries: Sequence[tuple[int, Mapping[bytes, bytes]]]) -> tuple[int, dict[bytes, bytes]]:
    """One entry with the events of these, which are named, as if one call had made them."""
    names = (b"user", b"quantity", b"delta", b"balance")
    lines = [fields[b"order"] + b" ".join(fields[name] for name in names) + b"\n" for _, fields in entries]
    number, last = entries[-1]
    head = b"%d %b %b\n" % (len(lines), last[b"price"], last[b"at"])
    return number, {last[b"kind"]: head + b"".join(lines)}


@pytest.mark.parametrize("in_one_entry", [False, True])
async def test_an_order_whose_entry_was_quarantined_is_not_honoured(
    fresh_settings: Settings, tmp_path: Path, in_one_entry: bool
) -> None:
    """Its process still remembers it, and its ledger holds it: it is the one promise that is given up (I6).

    Also if it stands in the midst of the events of one call.
    """
    async with own_shop(fresh_settings, tmp_path) as own:
        shop = own.shop
        async with running_worker(shop.settings):
            sale = await shop.open_sale(units=UNITS)
        orders = [await shop.bought(sale) for _ in range(3)]
        entries = await stream.events_from(shop.redis, sale.id, 1, 1, 3)
        entries = [(seq, named_fields(fields)) for seq, fields in entries]
        entries[1] = 2, {**entries[1][1], b"balance": b"5"}
        entries = [together(entries)] if in_one_entry else entries
        async with shop.redis.pipeline(transaction=True) as pipe:
            pipe.delete(ledger_keys(sale.id, 1).stream)
            for seq, fields in entries:
                parts = chain.from_iterable(fields.items())
                await pipe.execute_command("XADD", ledger_keys(sale.id, 1).stream, f"{seq}-0", *parts)
            await pipe.execute()

        async def alarmed() -> str | None:
            return (await shop.row(sale)).alarm

        async with running_worker(shop.settings):
            assert "entry 2 " in await wait_until(alarmed, reason="the alarm stands")
            await quarantine(shop.database, shop.redis, TESTER, sale.id, 2)
            await until_recovered(shop, sale, epoch=2)
            await assert_kept(shop, sale, [orders[0], orders[2]])


async def test_postgres_vetoes_an_oversell_by_itself(shop: Shop) -> None:
    """Whatever Redis says, the guard row takes no more units than the sale has (I4, F4)."""
    sale = await shop.open_sale(units=2)
    async with shop.database.transaction() as session:
        await update_sale(session, sale.id, units=1)
    first, second = await shop.bought(sale), await shop.bought(sale)

    assert "no_oversell" in await until_stopped(shop, sale)
    assert await recorded(shop, sale) == [first]
    assert second != first


async def test_a_gap_stops_the_sale_and_cannot_be_quarantined(shop: Shop) -> None:
    """An entry that is missing cannot be written down as evidence: only a recovery can help (I1)."""
    sale, before, _ = await write(shop, JUNK)
    await shop.redis.xdel(ledger_keys(sale.id, 1).stream, "2-0")

    assert "entry 2 " in await until_stopped(shop, sale)
    assert await recorded(shop, sale) == [before]
    with pytest.raises(NotFound):
        await quarantine(shop.database, shop.redis, TESTER, sale.id, 2)


async def test_only_the_entry_that_the_alarm_is_about_can_be_quarantined(shop: Shop) -> None:
    """A wrong number, a sale without an alarm and an unknown sale are refused, and nothing is written."""
    sale, before, _ = await write(shop, JUNK)
    await until_stopped(shop, sale)
    healthy = await shop.open_sale(units=1)
    assert outcome(await shop.buy(healthy)) == "reserved"
    await shop.drained(healthy)

    for sale_id, seq, refusal in (
        (sale.id, 1, SaleStateConflict),
        (sale.id, 3, SaleStateConflict),
        (sale.id, 99, NotFound),
        (healthy.id, 1, SaleStateConflict),
        (healthy.id, 2, NotFound),
        (2**31 - 2, 1, SaleNotFound),
    ):
        with pytest.raises(refusal):
            await quarantine(shop.database, shop.redis, TESTER, sale_id, seq)
    async with shop.database.transaction() as session:
        assert await session.get(LedgerRow, (sale.id, 1, 2)) is None
    assert await recorded(shop, sale) == [before]
