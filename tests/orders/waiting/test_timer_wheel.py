"""Many deadlines by one timer: never early, and late by a tick at most."""

import asyncio

from shop.timer_wheel import TimerWheel
from tests.harness import wait_until

TICK_SECONDS = 0.02
DEADLINES = [0.0, 0.01, 0.02, 0.05, 0.05, 0.1]


async def test_each_is_due_after_its_time_and_none_before() -> None:
    loop, due_at = asyncio.get_running_loop(), dict[int, float]()

    def due(item: int) -> None:
        due_at[item] = loop.time()

    wheel = TimerWheel(due, tick_seconds=TICK_SECONDS)
    began = loop.time()
    for item, seconds in enumerate(DEADLINES):
        wheel.add(item, seconds)

    async def all_due() -> bool:
        return len(due_at) == len(DEADLINES)

    await wait_until(all_due, reason="all are due")
    assert all(due_at[item] - began >= seconds for item, seconds in enumerate(DEADLINES))
    assert sorted(due_at, key=lambda item: due_at[item]) == sorted(due_at)


async def test_who_was_removed_is_not_due_and_a_wheel_without_anybody_goes_on_later() -> None:
    due: list[str] = []
    wheel: TimerWheel[str] = TimerWheel(due.append, tick_seconds=TICK_SECONDS)
    wheel.remove("early", wheel.add("early", 0.0))
    await asyncio.sleep(3 * TICK_SECONDS)
    wheel.remove("gone", wheel.add("gone", TICK_SECONDS))
    wheel.add("late", 2 * TICK_SECONDS)

    async def is_due() -> bool:
        return bool(due)

    await wait_until(is_due, reason="the last one is due")
    assert due == ["late"]
