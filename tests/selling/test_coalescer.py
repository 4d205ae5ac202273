"""Requests that wait at the same time share one round trip, and none is forgotten."""

import asyncio
from collections.abc import Sequence

import pytest

from shop.batching import Coalescer
from shop.redis import NotSent


async def _double(items: list[int]) -> Sequence[int]:
    await asyncio.sleep(0)
    return [item * 2 for item in items]


@pytest.mark.parametrize("callers", [1, 2, 4, 5])
async def test_an_item_that_comes_when_the_last_sender_ends_is_still_sent(callers: int) -> None:
    """A sender that has found the queue empty must not hold its place until the loop has cleaned up after it."""
    coalescer = Coalescer(_double, batch_max=4, in_flight_max=1, queue_max=100)

    async def ask_again_and_again() -> None:
        # The answer wakes this task in the same loop iteration in which the sender ends.
        for item in range(20):
            assert await coalescer.ask(item) == item * 2

    async with asyncio.timeout(5):
        await asyncio.gather(*(ask_again_and_again() for _ in range(callers)))


async def test_items_that_wait_together_are_sent_together() -> None:
    """One sender takes what has queued up meanwhile, up to the bound."""
    sizes: list[int] = []

    async def send(items: list[int]) -> Sequence[int]:
        sizes.append(len(items))
        await asyncio.sleep(0)
        return items

    coalescer = Coalescer(send, batch_max=4, in_flight_max=1, queue_max=100)

    await asyncio.gather(*(coalescer.ask(item) for item in range(9)))

    assert sizes == [4, 4, 1]


async def test_a_full_queue_refuses_at_once() -> None:
    """More than the bound never waits."""
    hold = asyncio.Event()

    async def send(items: list[int]) -> Sequence[int]:
        await hold.wait()
        return items

    coalescer = Coalescer(send, batch_max=1, in_flight_max=1, queue_max=2)
    waiting = [asyncio.ensure_future(coalescer.ask(0))]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting += [asyncio.ensure_future(coalescer.ask(item)) for item in (1, 2)]
    await asyncio.sleep(0)

    with pytest.raises(NotSent):
        await coalescer.ask(3)

    hold.set()
    assert await asyncio.gather(*waiting) == [0, 1, 2]


async def test_a_caller_that_leaves_does_not_disturb_its_batch() -> None:
    """The others of the batch get their answers."""
    hold = asyncio.Event()

    async def send(items: list[int]) -> Sequence[int]:
        await hold.wait()
        return items

    coalescer = Coalescer(send, batch_max=4, in_flight_max=1, queue_max=10)
    leaver, stayer = (asyncio.ensure_future(coalescer.ask(item)) for item in (1, 2))
    await asyncio.sleep(0)
    leaver.cancel()
    hold.set()

    assert await stayer == 2


async def test_a_failed_batch_fails_for_each_of_its_callers_and_the_next_one_is_sent() -> None:
    """An error belongs to the batch that had it."""
    failing = True

    async def send(items: list[int]) -> Sequence[int]:
        if failing:
            raise NotSent("no connection")
        return items

    coalescer = Coalescer(send, batch_max=4, in_flight_max=1, queue_max=10)
    async with asyncio.timeout(5):  # else whoever is forgotten waits for ever
        results = await asyncio.gather(*(coalescer.ask(item) for item in (1, 2)), return_exceptions=True)
    assert [type(result) for result in results] == [NotSent, NotSent]

    failing = False
    assert await coalescer.ask(3) == 3
