"""Tasks of several kinds share the loop: a crowd of one kind leaves the others their time, and loses none alone."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import pytest

from shop.app.fair_shares import Scheduler, Share

STEP_SECONDS, QUANTUM_SECONDS = 0.001, 0.001
CROWD, STEPS = 100, 20


def use_the_loop(seconds: float) -> None:
    """Let nobody else have the loop for so long."""
    ends_at = time.perf_counter() + seconds
    while time.perf_counter() < ends_at:
        pass


async def work(steps: int, seconds: float = STEP_SECONDS) -> str:
    """Steps that are always ready."""
    for _ in range(steps):
        use_the_loop(seconds)
        await asyncio.sleep(0)
    return "done"


async def steps_until_done(share: Callable[[], Share] | None) -> float:
    """How many steps of a crowd are run while another kind runs its own few, for each of these."""
    ran = 0

    async def endless() -> None:
        nonlocal ran
        while True:
            use_the_loop(STEP_SECONDS)
            ran += 1
            await asyncio.sleep(0)

    async def shared(coroutine: Awaitable[object], of: Share | None) -> None:
        await (coroutine if of is None else of.run(coroutine))  # type: ignore[arg-type]

    crowd_share, own_share = (None, None) if share is None else (share(), share())
    crowd = [asyncio.create_task(shared(endless(), crowd_share)) for _ in range(CROWD)]
    await asyncio.sleep(0)
    before = ran
    await shared(work(STEPS, seconds=0), own_share)
    found = (ran - before) / STEPS
    for task in crowd:
        task.cancel()
    await asyncio.gather(*crowd, return_exceptions=True)
    assert all(task.cancelled() for task in crowd)
    return found


async def test_a_crowd_of_one_kind_does_not_hold_up_another() -> None:
    scheduler = Scheduler()

    unshared = await steps_until_done(None)
    shared = await steps_until_done(lambda: scheduler.share(QUANTUM_SECONDS))

    assert unshared > CROWD / 2, "the crowd is no crowd"
    assert shared <= 3


async def test_who_is_alone_loses_nothing() -> None:
    """The quantum bounds what a kind takes from others; it is no limit."""
    share = Scheduler().share(QUANTUM_SECONDS)
    began = time.process_time()

    done = await asyncio.gather(*(share.run(work(5)) for _ in range(CROWD)))

    assert done == ["done"] * CROWD
    assert time.process_time() - began < 1.5 * 5 * CROWD * STEP_SECONDS


async def test_tasks_of_one_kind_take_their_steps_in_order() -> None:
    share, order = Scheduler().share(QUANTUM_SECONDS), []

    async def step(number: int) -> None:
        for _ in range(3):
            order.append(number)
            use_the_loop(2 * QUANTUM_SECONDS)
            await asyncio.sleep(0)

    await asyncio.gather(*(share.run(step(number)) for number in range(10)))

    assert order == [*range(10)] * 3


async def test_what_a_task_raises_is_its_own() -> None:
    share = Scheduler().share(QUANTUM_SECONDS)

    async def fail() -> None:
        await work(2)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await share.run(fail())
    assert await share.run(work(2)) == "done"


async def test_who_is_cancelled_while_waiting_for_a_step_cleans_up_and_the_others_go_on() -> None:
    share, begun, cleaned = Scheduler().share(QUANTUM_SECONDS), set[int](), []
    all_begun = asyncio.Event()

    async def careful(number: int) -> str:
        begun.add(number)
        if len(begun) == 10:
            all_begun.set()
        try:
            return await work(10)
        finally:
            await asyncio.sleep(0)
            cleaned.append(number)

    tasks = [asyncio.create_task(share.run(careful(number))) for number in range(10)]
    await all_begun.wait()
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert [isinstance(result, asyncio.CancelledError) for result in results] == [True, False] * 5
    assert sorted(cleaned) == [*range(10)]


async def test_time_limits_and_context_work_within_a_share() -> None:
    share, mine = Scheduler().share(QUANTUM_SECONDS), ContextVar("mine", default=0)

    async def limited() -> int:
        mine.set(7)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5 * STEP_SECONDS):
                await work(1_000)
        return mine.get()

    others = [asyncio.create_task(share.run(work(20))) for _ in range(5)]
    assert await share.run(limited()) == 7
    assert await asyncio.gather(*others) == ["done"] * 5
