"""`rate_limit.lua`: the generic cell rate algorithm for many callers in one call, by Redis time."""

from collections.abc import Sequence

import pytest
import redis.asyncio as aioredis

from shop.redis import NotSent, call_script
from tests.lua.ledgers import NOON_MS, command, everything, run_at

NOON_US = NOON_MS * 1000 + 456
# So slow that no key expires while a test runs.
EMISSION_US = 10_000_000
ANN, BOB, CID = "shop:{rate}:test:ann", "shop:{rate}:test:bob", "shop:{rate}:test:cid"


async def ask_at(
    redis: aioredis.Redis, clock_us: int, *keys: str, burst: int = 3, emission_us: int = EMISSION_US
) -> Sequence[int]:
    """The waits of these callers, all at one moment."""
    waits: Sequence[int] = await run_at(redis, clock_us, "rate_limit", keys, emission_us, burst)
    return waits


@pytest.mark.parametrize("burst", [1, 2, 7])
async def test_a_burst_is_admitted_and_the_next_waits_for_one_emission(redis: aioredis.Redis, burst: int) -> None:
    """All in one instant: exactly the burst, and the exact wait (F31)."""
    waits = [(await ask_at(redis, NOON_US, ANN, burst=burst))[0] for _ in range(burst + 2)]

    assert waits == [0] * burst + [EMISSION_US] * 2


async def test_after_one_emission_exactly_one_more_is_admitted(redis: aioredis.Redis) -> None:
    """And not a microsecond earlier."""
    for _ in range(3):
        await ask_at(redis, NOON_US, ANN)

    assert await ask_at(redis, NOON_US + EMISSION_US - 1, ANN) == [1]
    assert await ask_at(redis, NOON_US + EMISSION_US, ANN) == [0]
    assert await ask_at(redis, NOON_US + EMISSION_US, ANN) == [EMISSION_US]
    assert await ask_at(redis, NOON_US + EMISSION_US + 400, ANN) == [EMISSION_US - 400]


async def test_a_caller_who_paused_has_their_burst_again_and_no_more(redis: aioredis.Redis) -> None:
    for _ in range(3):
        await ask_at(redis, NOON_US, ANN)
    later_us = NOON_US + 100 * EMISSION_US

    assert [(await ask_at(redis, later_us, ANN))[0] for _ in range(4)] == [0, 0, 0, EMISSION_US]


async def test_a_refusal_writes_nothing(redis: aioredis.Redis) -> None:
    """Hammering does not push the next admission away."""
    await ask_at(redis, NOON_US, ANN, burst=1)
    before = await everything(redis)

    for later_us in range(0, EMISSION_US, EMISSION_US // 5):
        assert await ask_at(redis, NOON_US + later_us, ANN, burst=1) == [EMISSION_US - later_us]
    assert await everything(redis) == before


async def test_each_caller_of_a_call_has_their_own_bucket_and_answer(redis: aioredis.Redis) -> None:
    await ask_at(redis, NOON_US, BOB, burst=1)

    assert await ask_at(redis, NOON_US, ANN, BOB, CID, burst=1) == [0, EMISSION_US, 0]


async def test_the_same_caller_many_times_in_one_call_gets_one_burst(redis: aioredis.Redis) -> None:
    """Concurrent requests of one user share a round trip, and the script sees its own admissions (F31)."""
    assert await ask_at(redis, NOON_US, ANN, ANN, BOB, ANN, ANN, ANN) == [0, 0, 0, 0, EMISSION_US, EMISSION_US]
    assert await ask_at(redis, NOON_US, ANN, BOB, BOB, BOB) == [EMISSION_US, 0, 0, EMISSION_US]


async def test_every_key_expires_when_its_bucket_is_full_again(redis: aioredis.Redis) -> None:
    """The value is written with its expiry in one command, so no crash can part them (F27)."""
    for admitted in (1, 2, 3):
        await ask_at(redis, NOON_US, ANN)
        assert await redis.get(ANN) == str(NOON_US + admitted * EMISSION_US).encode()
        full_ms = admitted * EMISSION_US // 1000
        assert full_ms - 5_000 < await redis.pttl(ANN) <= full_ms


async def test_a_key_that_was_left_without_an_expiry_heals(redis: aioredis.Redis) -> None:
    """F27: nobody is banned for ever."""
    await redis.set(ANN, NOON_US)
    assert await redis.ttl(ANN) == -1

    assert await ask_at(redis, NOON_US, ANN) == [0]
    assert await redis.pttl(ANN) > 0


@pytest.mark.parametrize("junk", ["", "junk", "nan", "inf", "1e300", "99999999999999999", "-5", "0", "1e3x"])
async def test_a_key_that_holds_junk_counts_as_a_new_caller(redis: aioredis.Redis, junk: str) -> None:
    """F27, F32."""
    await redis.set(ANN, junk)

    assert [(await ask_at(redis, NOON_US, ANN))[0] for _ in range(4)] == [0, 0, 0, EMISSION_US]
    assert await redis.get(ANN) == str(NOON_US + 3 * EMISSION_US).encode()


async def test_a_clock_that_was_set_back_bans_nobody(redis: aioredis.Redis) -> None:
    """F27: a bucket that is fuller than a burst can make it was filled by another clock."""
    await ask_at(redis, NOON_US + 3_600_000_000, ANN, burst=1)

    assert await ask_at(redis, NOON_US, ANN, burst=1) == [0]
    assert await ask_at(redis, NOON_US, ANN, burst=1) == [EMISSION_US]


async def test_a_key_of_another_type_counts_as_a_new_caller(redis: aioredis.Redis) -> None:
    """F32: it is replaced, and the others of the call are not disturbed."""
    await command(redis, "RPUSH", ANN, "not a limiter")

    assert await ask_at(redis, NOON_US, BOB, ANN) == [0, 0]
    assert await redis.type(ANN) == b"string"


async def test_a_value_is_a_whole_number_without_an_exponent(redis: aioredis.Redis) -> None:
    """Microseconds since 1970 have sixteen digits; a rounded one would be an hour wrong."""
    await ask_at(redis, 9_007_199_254_000_001, ANN, emission_us=1_000_003)

    assert await redis.get(ANN) == b"9007199255000004"


async def test_the_real_clock_is_redis_time_in_microseconds(redis: aioredis.Redis) -> None:
    assert await call_script(redis, "rate_limit", [ANN], [EMISSION_US, 1], timeout=2) == [0]
    [wait_us] = await call_script(redis, "rate_limit", [ANN], [EMISSION_US, 1], timeout=2)

    seconds, microseconds = await redis.time()
    arrival_us = int(await redis.get(ANN))
    assert 0 < wait_us <= EMISSION_US
    assert 0 <= arrival_us - (seconds * 1_000_000 + microseconds) <= EMISSION_US


@pytest.mark.parametrize("arguments", [(), ("slow", 1), (EMISSION_US, "many"), (EMISSION_US,)])
async def test_a_limit_that_is_no_number_is_an_error_and_nothing_is_written(
    redis: aioredis.Redis, arguments: tuple[int | str, ...]
) -> None:
    """F32."""
    with pytest.raises(NotSent):
        await call_script(redis, "rate_limit", [ANN], arguments, timeout=2)

    assert await everything(redis) == {}
