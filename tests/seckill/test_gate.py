"""The overload gate measures how late the loop is; nothing else decides."""

import asyncio
import time
from collections.abc import Callable

from shop.seckill.gate import OverloadGate
from tests.harness import wait_until

MAX_SECONDS = 0.02


def work(seconds: float) -> None:
    """Keep the loop from turning for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


async def turns(count: int, each: Callable[[], None]) -> None:
    """Let the loop turn, with this work in each turn."""
    for _ in range(count):
        each()
        await asyncio.sleep(0)


async def test_an_idle_loop_admits_everybody() -> None:
    gate = OverloadGate(delay_seconds_max=MAX_SECONDS)

    assert gate.admits(0.0)
    assert (gate.lag_seconds, gate.closed_seconds) == (0.0, 0.0)


async def test_a_purchase_is_refused_while_turns_of_the_loop_take_too_long() -> None:
    """What is read now may have waited in the kernel since the last turn began."""
    gate = OverloadGate(delay_seconds_max=MAX_SECONDS)
    gate.heard()

    await turns(3, lambda: (gate.heard(), work(1.5 * MAX_SECONDS))[-1])

    assert gate.lag_seconds > MAX_SECONDS
    assert not gate.admits(0.0)


async def test_the_gate_opens_as_soon_as_the_loop_keeps_up_again() -> None:
    gate = OverloadGate(delay_seconds_max=MAX_SECONDS)
    gate.heard()
    await turns(3, lambda: (gate.heard(), work(1.5 * MAX_SECONDS))[-1])
    assert not gate.admits(0.0)

    async def open_again() -> bool:
        return gate.admits(0.0)

    await wait_until(open_again, reason="the gate is open")
    assert gate.closed_seconds == 0.0


async def test_the_wait_in_the_queue_counts_as_well() -> None:
    """The loop may be quick and Redis slow."""
    gate = OverloadGate(delay_seconds_max=MAX_SECONDS)

    assert gate.admits(0.9 * MAX_SECONDS)
    assert not gate.admits(1.1 * MAX_SECONDS)


async def test_the_gate_knows_for_how_long_it_has_refused_everybody() -> None:
    gate = OverloadGate(delay_seconds_max=MAX_SECONDS)

    assert not gate.admits(1.0)
    work(MAX_SECONDS)
    assert not gate.admits(1.0)
    assert gate.closed_seconds >= MAX_SECONDS

    assert gate.admits(0.0)
    assert gate.closed_seconds == 0.0


async def test_a_loop_that_hears_nothing_is_not_measured() -> None:
    """Otherwise an idle process would never sleep."""
    gate = OverloadGate(delay_seconds_max=MAX_SECONDS)
    gate.heard()
    await turns(5, lambda: None)

    work(2 * MAX_SECONDS)

    assert gate.lag_seconds == 0.0
