"""Tasks that last as long as the process."""

import asyncio

import pytest

from shop.stopping import Backoff, cancel_and_wait, supervise


async def test_a_task_that_fails_is_started_again_until_the_process_stops() -> None:
    """An error that nobody foresaw costs one run, not the task."""
    stopping, runs = asyncio.Event(), 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs == 3:
            stopping.set()
        raise RuntimeError("nobody foresaw this")

    async with asyncio.timeout(5):
        await supervise("test", run, stopping, Backoff(0.001, 0.002))

    assert runs == 3


async def test_delays_double_up_to_the_greatest_and_begin_again_after_a_success(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited: list[float] = []

    async def note(_: asyncio.Event, seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("shop.stopping.sleep_or_stop", note)
    backoff = Backoff(1.0, 3.0)
    for _ in range(4):
        await backoff.wait(asyncio.Event())
    backoff.reset()
    await backoff.wait(asyncio.Event())

    assert waited == [1.0, 2.0, 3.0, 3.0, 1.0]


async def test_a_task_that_swallows_a_cancellation_is_cancelled_all_the_same() -> None:
    """`asyncio.wait_for` does so now and then on Python 3.11."""
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed == 2:
                    raise

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)

    async with asyncio.timeout(5):
        await cancel_and_wait([task])

    assert task.cancelled()
