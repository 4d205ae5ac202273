"""`hot_products.lua`: reads that decay, by Redis time; only the hottest are kept."""

import pytest
import redis.asyncio as aioredis

from tests.lua.ledgers import NOON_MS, command, run_at

SCALED_AT, SCORES = "shop:{hot}:test:scaled_at", "shop:{hot}:test:products"
HALF_LIFE_MS = 60_000
PHONE, TABLET, RADIO = 11, 12, 13


async def merge_at(redis: aioredis.Redis, after_ms: int, *reads: tuple[int, int], kept: int = 10) -> None:
    """Merge (product, reads), so long after noon."""
    arguments = (HALF_LIFE_MS, kept, *(number for pair in reads for number in pair))
    await run_at(redis, (NOON_MS + after_ms) * 1000, "hot_products", (SCALED_AT, SCORES), *arguments)


async def scores(redis: aioredis.Redis) -> dict[int, float]:
    """The score of each product, the hottest first."""
    flat = await command(redis, "ZREVRANGE", SCORES, 0, -1, "WITHSCORES")
    return {int(product): float(score) for product, score in zip(flat[::2], flat[1::2], strict=True)}


async def test_reads_of_all_processes_are_one_score(redis: aioredis.Redis) -> None:
    await merge_at(redis, 0, (PHONE, 3), (TABLET, 2))
    await merge_at(redis, 0, (TABLET, 5))

    assert await scores(redis) == {TABLET: 7, PHONE: 3}


async def test_a_score_loses_half_in_each_half_life_however_often_it_is_scaled(redis: aioredis.Redis) -> None:
    await merge_at(redis, 0, (PHONE, 800))
    for after_ms in range(0, 2 * HALF_LIFE_MS, 1_500):
        await merge_at(redis, after_ms, (RADIO, 1))
    await merge_at(redis, 2 * HALF_LIFE_MS, (TABLET, 300))

    found = await scores(redis)
    assert list(found)[:2] == [TABLET, PHONE]
    assert found[PHONE] == pytest.approx(200)
    assert found[TABLET] == 300


async def test_what_is_cold_is_forgotten_and_no_more_are_kept_than_asked_for(redis: aioredis.Redis) -> None:
    await merge_at(redis, 0, (RADIO, 1))
    await merge_at(redis, 7 * HALF_LIFE_MS, (PHONE, 2), (TABLET, 3))
    assert list(await scores(redis)) == [TABLET, PHONE]
    await merge_at(redis, 7 * HALF_LIFE_MS, (RADIO, 9), kept=2)

    assert list(await scores(redis)) == [RADIO, TABLET]


async def test_a_clock_that_goes_back_makes_nothing_hotter(redis: aioredis.Redis) -> None:
    """Nor does junk where the time should be."""
    await merge_at(redis, HALF_LIFE_MS, (PHONE, 8))
    await merge_at(redis, 0, (TABLET, 8))
    assert await scores(redis) == {TABLET: 8, PHONE: 8}
    await redis.set(SCALED_AT, "noon")
    await merge_at(redis, HALF_LIFE_MS, (RADIO, 8))
    assert await scores(redis) == {TABLET: 8, PHONE: 8, RADIO: 8}

    await merge_at(redis, 2 * HALF_LIFE_MS)

    assert await scores(redis) == {TABLET: 4, PHONE: 4, RADIO: 4}
