"""`load_sale.lua`: a ledger is built by one loader, opened by the same one, and never set again."""

import pytest
import redis.asyncio as aioredis

from shop.ledger import loading as scripts
from shop.ledger.client import Answer
from shop.redis import NotSent
from tests.lua.ledgers import (
    NOON_MS,
    TIMEOUT_SECONDS,
    TOKEN,
    Ledger,
    begun_ledger,
    call,
    command,
    everything,
    open_ledger,
    opening_fields,
    sale_of_tests,
)


async def begin(ledger: Ledger, *, token: str, **changes: int) -> Answer:
    """Start a load over, as a loader with this token."""
    return await scripts.begin_load(
        ledger.redis,
        ledger.sale.sale_id,
        ledger.sale.epoch,
        token=token,
        fields=opening_fields(NOON_MS, **changes),
        timeout=TIMEOUT_SECONDS,
    )


async def open_load(ledger: Ledger, *, token: str, epoch: int = 1) -> Answer:
    """Open, as a loader with this token."""
    return await scripts.open_load(ledger.redis, ledger.sale.sale_id, epoch, token=token, timeout=TIMEOUT_SECONDS)


async def test_a_load_begins_with_a_complete_ledger_that_does_not_sell(redis: aioredis.Redis) -> None:
    """BEGUN: the rules as they were given, the epoch, the loader's token, state loading, seq 0, and no other key."""
    ledger = await sale_of_tests(redis)

    assert await begin(ledger, token="ann") == Answer("BEGUN")

    given = {name: str(value) for name, value in opening_fields(NOON_MS).items()}
    assert await ledger.fields() == {**given, "epoch": "1", "token": "ann", "state": "loading", "seq": "0"}
    assert await redis.keys("*") == [ledger.keys.sale.encode()]


async def test_opening_changes_the_state_and_nothing_else(redis: aioredis.Redis) -> None:
    """OPENED."""
    ledger = await begun_ledger(redis)
    before = await ledger.fields()

    assert await open_load(ledger, token=TOKEN) == Answer("OPENED")
    assert await ledger.fields() == {**before, "state": "open"}
    assert await redis.keys("*") == [ledger.keys.sale.encode()]


async def test_a_second_loader_starts_over_and_the_first_cannot_open_its_work(redis: aioredis.Redis) -> None:
    """WRONG_TOKEN: of two loaders exactly the later one opens, with what it wrote."""
    ledger = await sale_of_tests(redis)
    await begin(ledger, token="ann", available=10)
    assert await begin(ledger, token="bob", available=7) == Answer("BEGUN")
    before = await everything(redis)

    assert await open_load(ledger, token="ann") == Answer("WRONG_TOKEN")
    assert await everything(redis) == before
    assert await open_load(ledger, token="bob") == Answer("OPENED")
    assert await ledger.numbers("available", "seq") == (7, 0)


async def test_starting_over_leaves_nothing_of_what_was_there(redis: aioredis.Redis) -> None:
    ledger = await begun_ledger(redis)
    await ledger.set(left_over=1)
    for key in (ledger.keys.buyers, ledger.keys.orders):
        await command(redis, "HSET", key, "left", "over")
    await redis.xadd(ledger.keys.stream, {"left": "over"}, id="9-0")

    assert await begin(ledger, token="bob") == Answer("BEGUN")

    assert await redis.keys("*") == [ledger.keys.sale.encode()]
    assert "left_over" not in await ledger.fields()


@pytest.mark.parametrize("state", ["open", "paused", "ended", "settled"])
async def test_a_ledger_that_was_opened_is_never_loaded_again(redis: aioredis.Redis, state: str) -> None:
    """LOADED, whoever asks and in every state: no stock is ever set while orders may be in flight (F3, F6)."""
    ledger = await open_ledger(redis)
    await ledger.buy((1, "ann", 3))
    await ledger.set(state=state)
    before = await everything(redis)

    assert await begin(ledger, token=TOKEN) == Answer("LOADED")
    assert await begin(ledger, token="bob") == Answer("LOADED")
    assert await open_load(ledger, token=TOKEN) == Answer("LOADED")
    assert await open_load(ledger, token="bob") == Answer("LOADED")
    assert await everything(redis) == before


async def test_a_ledger_that_is_not_there_is_not_opened(redis: aioredis.Redis) -> None:
    """NOT_LOADED: keys that are missing after the load are a lost ledger, not an empty one (F32)."""
    ledger = await sale_of_tests(redis)

    assert await open_load(ledger, token=TOKEN) == Answer("NOT_LOADED")
    assert await everything(redis) == {}


async def test_a_ledger_of_another_epoch_is_not_opened(redis: aioredis.Redis) -> None:
    """STALE_EPOCH: also after it was fenced."""
    ledger = await begun_ledger(redis)
    for epoch in ("2", "fenced.1"):
        await ledger.set(epoch=epoch)
        before = await everything(redis)
        assert await open_load(ledger, token=TOKEN) == Answer("STALE_EPOCH")
        assert await everything(redis) == before


async def test_a_later_epoch_has_keys_of_its_own(redis: aioredis.Redis) -> None:
    """An old process of the epoch before cannot touch what a recovery builds."""
    old = await open_ledger(redis)
    before = await old.fields()
    new = await sale_of_tests(redis, epoch=2)

    assert await begin(new, token="bob", available=4) == Answer("BEGUN")
    assert await old.fields() == before
    assert not set(old.keys) & set(new.keys)


async def test_a_step_that_nobody_knows_is_an_error_and_nothing_is_written(redis: aioredis.Redis) -> None:
    ledger = await begun_ledger(redis)
    before = await everything(redis)

    with pytest.raises(NotSent, match="unknown step"):
        await call(ledger, "load_sale", "fill", 1, TOKEN)

    assert await everything(redis) == before


async def test_a_sale_key_of_a_wrong_type_is_an_error_and_nothing_is_written(redis: aioredis.Redis) -> None:
    """F32."""
    ledger = await sale_of_tests(redis)
    await redis.set(ledger.keys.sale, "not a ledger")
    before = await everything(redis)

    with pytest.raises(NotSent, match="WRONGTYPE"):
        await begin(ledger, token=TOKEN)
    with pytest.raises(NotSent, match="WRONGTYPE"):
        await open_load(ledger, token=TOKEN)

    assert await everything(redis) == before


@pytest.mark.parametrize("name", ["buyers", "orders", "stream"])
async def test_other_keys_of_a_wrong_type_are_cleared_by_starting_over(redis: aioredis.Redis, name: str) -> None:
    """F32: a ledger that was never opened has nothing worth keeping."""
    ledger = await begun_ledger(redis)
    await redis.set(getattr(ledger.keys, name), "not a ledger")

    assert await begin(ledger, token="bob") == Answer("BEGUN")
    assert await redis.keys("*") == [ledger.keys.sale.encode()]
