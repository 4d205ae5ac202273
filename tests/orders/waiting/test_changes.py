"""News of orders within one process: one subscription, however many listen, and nobody is told in vain."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from uuid import UUID, uuid4

import pytest
import redis.asyncio as aioredis

from shop.errors import Overloaded, RateLimited
from shop.order_news import CHANNEL, IDS_PER_MESSAGE_MAX, READING, Announcer, Changes
from shop.redis import connect
from shop.settings import Settings
from tests.harness import wait_until
from tests.processes import copy_of

NEWS_SECONDS = 5.0
LISTENERS = 10_000


async def subscriptions(redis: aioredis.Redis) -> int:
    """How many connections hear of orders."""
    [(_, count)] = await redis.pubsub_numsub(CHANNEL)
    return int(count)


@asynccontextmanager
async def following(redis: aioredis.Redis, settings: Settings) -> AsyncIterator[Changes]:
    """The listeners of a process that hears what is announced."""
    client, stopping, before = connect(settings.redis_url, settings), asyncio.Event(), await subscriptions(redis)
    changes = Changes(client, settings)
    task = asyncio.create_task(changes.follow(stopping))
    try:
        await wait_until(lambda: subscribed(redis, before + 1), reason="it hears")
        yield changes
    finally:
        stopping.set()
        await task
        await client.aclose(close_connection_pool=True)


async def subscribed(redis: aioredis.Redis, count: int) -> bool:
    return await subscriptions(redis) == count


async def told(redis: aioredis.Redis, settings: Settings, *order_ids: UUID) -> None:
    """Announce these orders."""
    announcer = Announcer(redis, settings)
    await announcer.tell(order_ids)
    await announcer.close()


async def test_thousands_of_listeners_cost_one_subscription(redis: aioredis.Redis, settings: Settings) -> None:
    """And each hears of their own order only."""
    before, order_ids = await subscriptions(redis), [uuid4() for _ in range(LISTENERS)]
    async with following(redis, settings) as changes, AsyncExitStack() as stack:
        listeners = [stack.enter_context(changes.listening(order_id.bytes)) for order_id in order_ids]
        assert await subscriptions(redis) == before + 1

        await told(redis, settings, *order_ids[::2])

        assert all(await asyncio.gather(*(listener.wait(NEWS_SECONDS) for listener in listeners[::2])))
        assert not any(await asyncio.gather(*(listener.wait(0) for listener in listeners[1::2])))


async def test_all_who_wait_for_the_same_order_are_told_of_it(redis: aioredis.Redis, settings: Settings) -> None:
    order_id = uuid4()
    async with following(redis, settings) as changes:
        with changes.listening(order_id.bytes) as one, changes.listening(order_id.bytes) as other:
            await told(redis, settings, order_id)

            assert await one.wait(NEWS_SECONDS)
            assert await other.wait(NEWS_SECONDS)


async def test_news_between_two_waits_are_not_missed_and_are_told_once(settings: Settings) -> None:
    """F43: whoever registers, reads and then waits cannot lose what came in between."""
    changes, order_id = unconnected(settings), uuid4().bytes
    with changes.listening(order_id) as listener:
        changes.received(order_id)
        changes.received(order_id)

        assert await listener.wait(NEWS_SECONDS)
        assert not await listener.wait(0)


def unconnected(settings: Settings) -> Changes:
    """Listeners that are told by the test itself."""
    return Changes(aioredis.Redis(), settings)


async def test_who_expects_another_order_forgets_the_first(settings: Settings) -> None:
    """What was said of the first is no news of the second."""
    changes, first, second = unconnected(settings), uuid4().bytes, uuid4().bytes
    with changes.listening() as listener:
        listener.expect(first)
        changes.received(first)
        listener.expect(second)
        changes.received(first)
        waiting = asyncio.create_task(listener.wait(NEWS_SECONDS))
        await asyncio.wait({waiting}, timeout=0.05)
        assert not waiting.done()

        changes.received(second)
        assert await waiting


async def test_a_process_keeps_nothing_of_listeners_that_have_left(settings: Settings) -> None:
    changes = unconnected(settings)
    with changes.listening(uuid4().bytes), changes.listening() as listener:
        listener.expect(uuid4().bytes)
        listener.expect(uuid4().bytes)

    assert (changes.listeners, changes.followed()) == (0, [])


def test_a_message_that_nobody_here_waits_for_wakes_nobody_whatever_it_is(settings: Settings) -> None:
    changes = unconnected(settings)
    with changes.listening(uuid4().bytes):
        for message in (b"", b"x", bytes(16), bytes(17), b"junk" * 1_000):
            changes.received(message)


async def test_a_process_has_a_bound_of_listeners(settings: Settings) -> None:
    """The next one is refused, and admitted when another has left."""
    changes = unconnected(copy_of(settings, order_listeners_max=2))
    with changes.listening(uuid4().bytes):
        with changes.listening():
            assert changes.full
            with pytest.raises(Overloaded), changes.listening(uuid4().bytes):
                pass
        with changes.listening(uuid4().bytes):
            assert changes.listeners == 2


async def test_an_order_has_a_bound_of_listeners(settings: Settings) -> None:
    """One client cannot take the slots of all."""
    changes, order_id = unconnected(copy_of(settings, listeners_per_order_max=2)), uuid4().bytes
    with changes.listening(order_id), changes.listening(order_id), changes.listening(uuid4().bytes):
        with pytest.raises(RateLimited), changes.listening(order_id):
            pass
        assert changes.listeners == 3


async def test_a_poll_wakes_those_who_know_another_version(settings: Settings) -> None:
    changes, order_id = unconnected(settings), uuid4().bytes
    with ExitStack() as stack:
        listeners = [stack.enter_context(changes.listening(order_id)) for _ in range(4)]
        for listener, known in zip(listeners, (0, 2, 3, READING), strict=True):
            listener.known = known

        changes.seen(order_id, 3)

        assert [await listener.wait(0) for listener in listeners] == [True, True, False, False]


async def test_a_stop_lets_everybody_go_without_news_now_and_later(settings: Settings) -> None:
    changes = unconnected(settings)
    with ExitStack() as stack:
        listeners = [stack.enter_context(changes.listening(uuid4().bytes)) for _ in range(3)]
        waiting = [asyncio.create_task(listener.wait(NEWS_SECONDS)) for listener in listeners]
        await asyncio.sleep(0)

        changes.stop()

        async with asyncio.timeout(NEWS_SECONDS / 2):
            assert await asyncio.gather(*waiting) == [False] * 3
            assert not await listeners[0].wait(NEWS_SECONDS)


async def test_a_lost_subscription_is_made_again(redis: aioredis.Redis, settings: Settings) -> None:
    order_id = uuid4()
    others = {client["id"] for client in await redis.client_list(_type="pubsub")}
    async with following(redis, settings) as changes:
        count = await subscriptions(redis)
        [own] = [client for client in await redis.client_list(_type="pubsub") if client["id"] not in others]
        await redis.client_kill_filter(_id=own["id"])

        with changes.listening(order_id.bytes) as listener:
            await wait_until(lambda: new_subscription(redis, others | {own["id"]}), reason="it hears again")
            assert await subscriptions(redis) == count
            await told(redis, settings, order_id)
            assert await listener.wait(NEWS_SECONDS)


async def new_subscription(redis: aioredis.Redis, known: set[str]) -> bool:
    return any(client["id"] not in known for client in await redis.client_list(_type="pubsub"))


async def test_a_silent_redis_is_asked_whether_it_is_still_there(
    redis: aioredis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quiet subscription lasts; the answers keep it."""
    monkeypatch.setattr("shop.order_news.SILENCE_SECONDS_MAX", 0.02)
    others = {client["id"] for client in await redis.client_list(_type="pubsub")}

    async def asked() -> bool:
        [own] = [client for client in await redis.client_list(_type="pubsub") if client["id"] not in others]
        return bool(own["cmd"] == "ping")

    async with following(redis, settings) as changes:
        await wait_until(asked, reason="it asks")
        [own] = [client for client in await redis.client_list(_type="pubsub") if client["id"] not in others]
        with changes.listening(order_id := uuid4().bytes) as listener:
            await told(redis, settings, UUID(bytes=order_id))
            assert await listener.wait(NEWS_SECONDS)
        assert own["id"] in {client["id"] for client in await redis.client_list(_type="pubsub")}


async def test_orders_that_change_together_share_a_message(redis: aioredis.Redis, settings: Settings) -> None:
    """And a message has a bound."""
    announcer, order_ids = Announcer(redis, settings), [uuid4() for _ in range(IDS_PER_MESSAGE_MAX + 100)]
    async with redis.pubsub(ignore_subscribe_messages=True) as subscription:
        await subscription.subscribe(CHANNEL)
        await subscription.get_message(timeout=NEWS_SECONDS)
        for start in range(0, len(order_ids), 100):
            await announcer.tell(order_ids[start : start + 100])
        await announcer.close()

        messages = [await subscription.get_message(timeout=NEWS_SECONDS) for _ in range(2)]

    first, second = (message["data"] for message in messages if message)
    assert len(first) == IDS_PER_MESSAGE_MAX * 16
    assert first + second == b"".join(order_id.bytes for order_id in order_ids)


async def test_whoever_announces_does_not_wait_for_a_redis_that_is_away(
    redis: aioredis.Redis, settings: Settings
) -> None:
    """What it would have said is lost, and it tells again when Redis is back."""
    away = connect("redis://127.0.0.1:1/0", settings)
    announcer, order_id = Announcer(away, settings), uuid4()
    async with following(redis, settings) as changes:
        with changes.listening(order_id.bytes) as listener:
            async with asyncio.timeout(settings.redis_timeout_seconds / 2):
                await announcer.tell([order_id])
            await announcer.close()
            assert not await listener.wait(0)

            announcer._client = redis
            await announcer.tell([order_id])
            assert await listener.wait(NEWS_SECONDS)
    await announcer.close()
    await away.aclose(close_connection_pool=True)
