"""The sold-out latch: quick to say no, and never against the truth."""

import asyncio

import pytest
import redis.asyncio as aioredis

from shop.app.directory import follow_latches
from shop.ledger.client import LastOrder, LoadedSale, RedisClock
from shop.ledger.receipts import Signer, Witness
from shop.pipelined import PipelinedConnection
from shop.sales.models import Sale
from shop.seckill.group_commit import GroupCommit
from shop.seckill.latch import BITS_MAX, BITS_MIN, Latch, winner_bits
from shop.seckill.registry import Registry
from shop.seckill.tally import Tally
from shop.settings import Settings
from tests.harness import Shop, new_user_id, outcome, running_shop, wait_until
from tests.lua.ledgers import command, open_ledger, order_id
from tests.processes import copy_of


async def script_calls(shop: Shop) -> int:
    """How many scripts Redis has run for purchases; an answer from memory runs none."""
    stats = await shop.redis.info("commandstats")
    return int(stats["cmdstat_evalsha"]["calls"])


async def until_latched(shop: Shop, sale: Sale) -> None:
    """Wait until a newcomer's purchase does not reach Redis any more."""

    async def from_memory() -> bool:
        before = await script_calls(shop)
        assert outcome(await shop.buy(sale)) == "sold_out"
        return await script_calls(shop) == before

    await wait_until(from_memory, reason="sold out is answered from memory")


async def test_after_the_last_unit_sold_out_is_answered_from_memory(shop: Shop) -> None:
    """Redis is not asked, and the refusal still carries a witness of its sequence number."""
    sale = await shop.open_sale(units=1)
    assert outcome(await shop.buy(sale)) == "reserved"
    await until_latched(shop, sale)

    refusal = await shop.buy(sale)

    problem = refusal.json()
    assert (refusal.status_code, problem["code"]) == (409, "sold_out")
    assert problem["request_id"] == refusal.headers["X-Request-Id"]
    witness = Signer(shop.settings.secret).read(Witness, problem["witness"])
    assert (witness.code, witness.sale_id, witness.seq) == ("sold_out", sale.id, 1)


@pytest.mark.parametrize("key", [None, "a-key-of-their-own"])
async def test_a_winner_still_finds_their_order_when_the_latch_is_closed(shop: Shop, key: str | None) -> None:
    """The latch knows who has won: a retry reaches the ledger."""
    sale, winner = await shop.open_sale(units=1), new_user_id()
    order_id = await shop.bought(sale, winner, key=key)
    await until_latched(shop, sale)

    retry = await shop.buy(sale, winner, key=key)

    assert (outcome(retry), retry.json()["id"]) == ("replayed", order_id)


async def test_too_few_units_for_one_wish_do_not_close_the_latch(shop: Shop) -> None:
    """Only a balance of 0 is sold out for everybody, however often the latches are polled meanwhile."""
    sale = await shop.open_sale(units=1, units_per_user=5)
    clock = asyncio.get_running_loop().time
    end = clock() + 5 * shop.settings.latch_poll_seconds
    while clock() < end:
        assert outcome(await shop.buy(sale, quantity=2)) == "not_enough_units"
    assert outcome(await shop.buy(sale)) == "reserved"


async def test_the_latch_opens_when_a_unit_comes_back(shop: Shop) -> None:
    """After a cancel somebody else gets the unit, within the time of a poll or two (F20)."""
    sale, winner = await shop.open_sale(units=1), new_user_id()
    order_id = await shop.bought(sale, winner)
    await until_latched(shop, sale)
    await shop.drained(sale)

    client = await shop.client()
    assert (await client.post(f"/v1/orders/{order_id}/cancel", headers=shop.headers(winner))).status_code == 200

    async def bought() -> bool:
        return outcome(await shop.buy(sale)) == "reserved"

    await wait_until(bought, within=1.0, reason="the unit is sold again")


async def test_the_latches_of_all_processes_open_when_a_unit_comes_back(shop: Shop) -> None:
    """Each finds it by itself, with two polls in the 200 ms that are promised (F20)."""
    assert 2 * Settings(_env_file=None, environment="development").latch_poll_seconds <= 0.2
    async with running_shop(copy_of(shop.settings), worker=False) as other:
        sale, winner = await shop.open_sale(units=1, units_per_user=5), new_user_id()
        await other.until_loaded(sale)
        order_id = await shop.bought(sale, winner)
        for each in (shop, other):
            await until_latched(each, sale)
        await shop.drained(sale)
        client = await shop.client()
        assert (await client.post(f"/v1/orders/{order_id}/cancel", headers=shop.headers(winner))).status_code == 200

        async def open_again() -> bool:
            return {outcome(await each.buy(sale, quantity=2)) for each in (shop, other)} == {"not_enough_units"}

        await wait_until(open_again, within=1.0, reason="both ask the ledger")


async def test_the_latch_opens_when_units_are_added(shop: Shop) -> None:
    """A restock sells in every process within a second (F20)."""
    sale = await shop.open_sale(units=1, stock=3)
    assert outcome(await shop.buy(sale)) == "reserved"
    await until_latched(shop, sale)

    assert (await shop.change(sale, "stock", {"delta": 2})).json()["outcome"] == "applied"

    async def bought() -> bool:
        return outcome(await shop.buy(sale)) == "reserved"

    await wait_until(bought, within=1.0, reason="a new unit is sold")


async def test_whoever_won_between_two_polls_is_no_loser(redis: aioredis.Redis) -> None:
    """A unit came back and was sold again: nothing is left as before, and the winners that are known are too few."""
    ledger = await open_ledger(redis, available=1)
    latch = Latch(redis, ledger.sale)
    await ledger.buy((1, "ann", 1))
    latch.close(seq=1)
    await latch.poll()
    assert [latch.knows_sold_out(order_id(number)) for number in (1, 2)] == [False, True]

    await ledger.give_back((1, 1))
    await ledger.buy((2, "bob", 1))
    await latch.poll()

    assert (latch.closed, latch.seq, latch.knows_sold_out(order_id(2))) == (True, 3, False)


async def test_an_answer_that_was_overtaken_says_nothing(
    redis: aioredis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is on its way, a unit comes back and is sold here, and the next buyer is told that nothing is left."""
    ledger = await open_ledger(redis, available=1)
    latch = Latch(redis, ledger.sale)
    await ledger.buy((1, "ann", 1))
    latch.close(seq=1)
    read = latch._read

    async def overtaken(*, with_winners: bool) -> object:
        found = await read(with_winners=with_winners)
        await ledger.give_back((1, 1))
        await ledger.buy((2, "bob", 1))
        latch.open()
        latch.close(seq=3)
        return found

    monkeypatch.setattr(latch, "_read", overtaken)
    await latch.poll()

    assert (latch.closed, latch.seq, latch.knows_sold_out(order_id(2))) == (True, 3, False)


@pytest.mark.parametrize("lost", ["winners", "sale", "ends_ms", "another type"])
async def test_a_ledger_that_lacks_a_part_opens_the_latch(redis: aioredis.Redis, lost: str) -> None:
    """Nobody can tell from it who has won, so each buyer is told by the scripts what is wrong."""
    ledger = await open_ledger(redis, available=1)
    latch = Latch(redis, ledger.sale)
    await ledger.buy((1, "ann", 1))
    latch.close(seq=1)

    if lost == "ends_ms":
        await command(redis, "HDEL", ledger.keys.sale, lost)
    else:
        await redis.delete(ledger.keys.winners if lost == "winners" else ledger.keys.sale)
    if lost == "another type":
        await redis.set(ledger.keys.sale, "nonsense")
    await latch.poll()

    assert not latch.closed


async def test_a_sale_that_lost_its_units_unsold_is_sold_out_for_everybody(redis: aioredis.Redis) -> None:
    """No order was ever made: that there are no winners is then no loss."""
    ledger = await open_ledger(redis, available=1)
    await ledger.set(available=0)
    latch = Latch(redis, ledger.sale)
    latch.close(seq=0)

    await latch.poll()

    assert (latch.closed, latch.knows_sold_out(order_id(1))) == (True, True)


@pytest.mark.parametrize("what", ["a unit comes back", "a pause", "the end"])
async def test_the_next_poll_opens_a_latch_that_does_not_speak_for_the_sale_any_more(
    redis: aioredis.Redis, what: str
) -> None:
    """Whoever asks then is told by the ledger, not by chance because the winners are being fetched (F20)."""
    ledger = await open_ledger(redis, available=1)
    latch = Latch(redis, ledger.sale)
    await ledger.buy((1, "ann", 1))
    latch.close(seq=1)
    await latch.poll()
    assert latch.closed

    if what == "a unit comes back":
        await ledger.give_back((1, 1))
    else:
        await (ledger.set(state="paused") if what == "a pause" else ledger.set(ends_ms=1))
    await latch.poll()

    assert not latch.closed


async def test_a_sold_out_sale_that_is_paused_or_over_says_so(shop: Shop) -> None:
    """The latch speaks only for a sale that is open."""
    sale = await shop.open_sale(units=1)
    assert outcome(await shop.buy(sale)) == "reserved"
    await until_latched(shop, sale)

    await shop.change(sale, "pause")

    async def paused() -> bool:
        return outcome(await shop.buy(sale)) == "sale_paused"

    await wait_until(paused, within=1.0, reason="the pause is told")
    await shop.change(sale, "close")

    async def over() -> bool:
        return outcome(await shop.buy(sale)) == "sale_ended"

    await wait_until(over, within=1.0, reason="the end is told")


@pytest.mark.parametrize(("units", "bits"), [(1, BITS_MIN), (1_000, 16_384), (1_000_000, 2**24), (10**9, BITS_MAX)])
def test_the_bitmap_of_winners_has_room_for_sixteen_times_the_units(units: int, bits: int) -> None:
    """A power of two, within bounds."""
    assert winner_bits(units) == bits


async def test_a_sale_may_be_adopted_while_the_latches_are_polled(
    settings: Settings, redis: aioredis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The poll waits for Redis, and meanwhile the process learns of another sale."""
    registry = Registry(Signer(settings.secret))

    def group(sale_id: int) -> GroupCommit:
        sale = LoadedSale(sale_id, 1, b"salt", 1, "EUR", 60, 1)
        return GroupCommit(
            PipelinedConnection(redis), sale, last=LastOrder(b"", 0), clock=RedisClock(), settings=settings
        )

    first = group(1)
    registry.adopt(first)

    stopping = asyncio.Event()

    async def learn_meanwhile() -> None:
        registry.adopt(group(2))
        stopping.set()

    monkeypatch.setattr(first.latch, "poll", learn_meanwhile)

    await follow_latches(registry, [Tally("POST", "/")], settings, stopping)

    assert (registry.epoch_of(1), registry.epoch_of(2)) == (1, 1)
