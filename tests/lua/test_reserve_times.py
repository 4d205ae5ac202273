"""`reserve.lua` and the clock: the window of a sale, the deadline of a caller, both by Redis time."""

from pathlib import Path

import pytest
import redis.asyncio as aioredis

from shop.embedded import ValkeyServer
from shop.ledger.client import RedisClock, ReserveRequest, reserve
from shop.redis import OutcomeUnknown, connect, load_scripts
from shop.settings import Settings
from tests.harness import wait_until
from tests.lua.ledgers import LATER_MS, NOBODY, NOON_MS, call, everything, open_ledger, order_id, words
from tests.processes import frozen, lasting

GIVEN_UP_SECONDS = 0.2


async def test_a_reservation_is_dated_by_redis_time(redis: aioredis.Redis) -> None:
    ledger = await open_ledger(redis)
    clock = RedisClock()

    [answer] = await ledger.buy((1, "ann", 1), clock=clock)

    seconds, microseconds = await redis.time()
    now_ms = seconds * 1000 + microseconds // 1000
    assert 0 <= now_ms - int(answer.fields[2]) < 2_000
    assert abs(clock.now_ms - now_ms) < 2_000


@pytest.mark.parametrize("skew_ms", [0, 86_400_000, -86_400_000])
@pytest.mark.parametrize(
    ("offset_ms", "word"),
    [(-1, "NOT_OPEN"), (0, "RESERVED"), (999, "RESERVED"), (1_000, "ENDED"), (1_001, "ENDED")],
)
async def test_the_window_opens_at_its_first_millisecond_and_ends_before_its_last(
    redis: aioredis.Redis, offset_ms: int, word: str, skew_ms: int
) -> None:
    """I10 and F30: [starts_at, ends_at), by Redis time plus the sale's skew, and no change outside of it."""
    ledger = await open_ledger(redis)
    await ledger.set(starts_ms=NOON_MS, ends_ms=NOON_MS + 1_000, skew_ms=skew_ms)
    before = await everything(redis)
    clock_ms = NOON_MS + offset_ms - skew_ms

    reply = await ledger.run_at(clock_ms, "reserve", 1, clock_ms + 1_000, "", 0, "", order_id(1), "ann", 1)

    assert reply[0] == clock_ms
    tail = {"NOT_OPEN": f"0 {NOON_MS}", "RESERVED": f"1 9 {NOON_MS + offset_ms}", "ENDED": f"0 {NOON_MS + 1_000}"}
    assert reply[1].decode() == f"{word} {tail[word]}"
    assert (await everything(redis) == before) == (word != "RESERVED")


async def test_the_real_clock_opens_a_sale_without_anybody_doing_anything(redis: aioredis.Redis) -> None:
    """Whoever is refused was before the start by Redis time, whoever is accepted was not (I10)."""
    ledger = await open_ledger(redis)
    seconds, microseconds = await redis.time()
    starts_ms = seconds * 1000 + microseconds // 1000 + 50
    await ledger.set(starts_ms=starts_ms)

    refused = 0
    while True:
        reply = await call(ledger, "reserve", 1, starts_ms + 60_000, "", 0, "", order_id(1), "ann", 1)
        word, *fields = reply[1].decode().split(" ")
        if word == "RESERVED":
            break
        assert (word, reply[0] < starts_ms) == ("NOT_OPEN", True)
        refused += 1
    assert refused > 0
    assert int(fields[2]) >= starts_ms


@pytest.mark.parametrize(("early_ms", "word"), [(1, "RESERVED"), (0, "RESERVED"), (-1, "LATE")])
async def test_after_the_deadline_nothing_is_executed(redis: aioredis.Redis, early_ms: int, word: str) -> None:
    """LATE: the caller has given up, so no order may appear afterwards (I9)."""
    ledger = await open_ledger(redis)
    await ledger.set(starts_ms=NOON_MS - 1, ends_ms=LATER_MS)
    before = await everything(redis)

    reply = await ledger.run_at(NOON_MS, "reserve", 1, NOON_MS + early_ms, "", 0, "", order_id(1), "ann", 1)

    assert reply[1].decode().split(" ")[0] == word
    assert (await everything(redis) == before) == (word == "LATE")


async def test_the_deadline_is_redis_time_and_no_skew_moves_it(redis: aioredis.Redis) -> None:
    """The skew is for windows alone: a caller's deadline is made of the clock that the answers carry."""
    ledger = await open_ledger(redis)
    await ledger.set(starts_ms=1, ends_ms=LATER_MS * 2, skew_ms=5_000)

    reply = await ledger.run_at(NOON_MS, "reserve", 1, NOON_MS, "", 0, "", order_id(1), "ann", 1)

    assert reply == [NOON_MS, f"RESERVED 1 9 {NOON_MS + 5_000}".encode()]


async def test_a_process_whose_clock_is_far_behind_is_late_for_the_whole_batch(redis: aioredis.Redis) -> None:
    """The answer carries Redis time, so the next batch is on time."""
    ledger = await open_ledger(redis)
    clock = RedisClock()
    clock.learn(1)

    assert words(await ledger.buy((1, "ann", 1), (2, "bob", 1), clock=clock)) == ["LATE", "LATE"]
    assert words(await ledger.buy((1, "ann", 1), (2, "bob", 1), clock=clock)) == ["RESERVED", "RESERVED"]


async def test_what_a_caller_has_given_up_is_not_executed_when_redis_wakes_up(
    settings: Settings, tmp_path: Path
) -> None:
    """The command lies in the socket of a server that hangs: its deadline is the caller's own timeout (I9)."""
    server = ValkeyServer(tmp_path)
    server.start()
    client = connect(server.url, settings)
    clock = RedisClock()

    async def calls() -> int:
        return int((await client.info("commandstats"))["cmdstat_evalsha"]["calls"])

    try:
        await load_scripts(client)
        ledger = await open_ledger(client)
        await ledger.buy((1, "ann", 1), clock=clock)
        before = await calls()
        late = [ReserveRequest(order_id(2), "bob", 1)]
        with frozen(server.pid):
            with pytest.raises(OutcomeUnknown):
                await reserve(client, ledger.sale, late, clock=clock, last=NOBODY, timeout=GIVEN_UP_SECONDS)
            await lasting(GIVEN_UP_SECONDS)

        async def came() -> bool:
            return await calls() > before

        await wait_until(came, reason="the command was taken up")
        assert await ledger.entry(2) is None
        assert await ledger.numbers("available", "seq") == (9, 1)
    finally:
        await client.aclose(close_connection_pool=True)
        server.stop()
