"""The overload gate measures how far the loop lags and how long a purchase takes; nothing else decides."""

import asyncio
import time

from shop.server.gate import OverloadGate
from tests.harness import wait_until

MAX_SECONDS = 0.02
REFUSED_MAX = 3_000


def a_gate() -> OverloadGate:
    return OverloadGate(delay_seconds_max=MAX_SECONDS, refused_at_once_max=REFUSED_MAX)


def work(seconds: float) -> None:
    """Hold up the loop, for so long at least, with so much work."""
    end, cpu_end = time.monotonic() + seconds, time.thread_time() + seconds
    while time.monotonic() < end or time.thread_time() < cpu_end:
        pass


async def iteration(gate: OverloadGate, *, purchases: int = 0, seconds: float = 0.0) -> int:
    """A loop iteration with so many purchases and so much work; how many were admitted."""
    gate.count_read()
    admitted = sum(gate.admits(0.0) for _ in range(purchases))
    work(seconds)
    await asyncio.sleep(0)
    return admitted


async def test_an_idle_process_admits_everybody() -> None:
    """Nothing is known of the time that a purchase takes before many were seen."""
    assert await iteration(a_gate(), purchases=1_000) == 1_000


async def learn(gate: OverloadGate, purchases: int, seconds: float) -> None:
    """Iterations with so many purchases that take so long, and a quick one at the end."""
    for _ in range(30):
        await iteration(gate, purchases=purchases, seconds=seconds)
    await iteration(gate)


async def test_an_iteration_admits_as_many_as_it_has_time_for() -> None:
    """Purchases that were seen to take a twentieth of the greatest delay: about twenty of them."""
    gate = a_gate()
    await learn(gate, 20, MAX_SECONDS)

    assert 1 <= await iteration(gate, purchases=200) <= 25


async def test_quiet_iterations_are_not_measured_so_that_a_crowd_after_them_is_not_refused() -> None:
    """A purchase alone takes far longer than one among many."""
    gate = a_gate()
    await learn(gate, 5, MAX_SECONDS / 2)

    assert await iteration(gate, purchases=200) == 200


async def test_a_gate_that_has_learned_wrong_learns_again_while_it_refuses() -> None:
    gate = a_gate()
    await learn(gate, 20, 0.9 * MAX_SECONDS)
    assert await iteration(gate, purchases=200) <= 25

    await learn(gate, 200, 0.0)

    assert await iteration(gate, purchases=200) == 200


async def test_answers_by_the_latch_do_not_look_like_slow_purchases() -> None:
    gate = a_gate()
    for _ in range(30):
        for _ in range(100):
            gate.count_latched()
        await iteration(gate, purchases=1, seconds=MAX_SECONDS / 10)
    await iteration(gate)

    assert await iteration(gate, purchases=200) >= 100


async def test_a_purchase_is_refused_while_loop_iterations_take_too_long() -> None:
    """What is read now may have waited in the kernel for all of the last iteration."""
    gate = a_gate()

    for _ in range(3):
        await iteration(gate, seconds=2.5 * MAX_SECONDS)

    assert gate.lagging
    assert not gate.admits(0.0)


async def test_the_gate_opens_as_soon_as_the_loop_keeps_up_again() -> None:
    gate = a_gate()
    for _ in range(3):
        await iteration(gate, seconds=2.5 * MAX_SECONDS)
    assert not gate.admits(0.0)

    async def open_again() -> bool:
        gate.count_read()
        return gate.admits(0.0)

    await wait_until(open_again, reason="the gate is open")


async def test_the_wait_in_the_queue_counts_as_well() -> None:
    """The loop may be quick and Redis slow."""
    gate = a_gate()

    assert gate.admits(0.9 * MAX_SECONDS)
    assert not gate.admits(1.1 * MAX_SECONDS)


def refuse(gate: OverloadGate, count: int) -> None:
    """So many come for whom there is no time."""
    while count > 0:
        count -= not gate.admits(0.0)


async def test_an_iteration_that_refuses_too_many_is_saturated() -> None:
    """Those come back at once, and refusing them leaves no time to sell."""
    gate = a_gate()
    await learn(gate, 20, MAX_SECONDS)
    gate.count_read()

    told = []
    for count in (0, 1, REFUSED_MAX - 1, 1):
        refuse(gate, count)
        told.append((gate.refusing, gate.saturated))
    await iteration(gate)

    assert told == [(False, False), (True, False), (True, False), (True, True)]
    assert (gate.refusing, gate.saturated) == (False, False)


async def test_to_ask_whether_a_purchase_is_refused_admits_nobody() -> None:
    """A purchase that is not refused is asked about again, by the code that admits it."""
    gate = a_gate()
    await learn(gate, 20, MAX_SECONDS)
    gate.count_read()

    assert not any(gate.refuses(0.0) for _ in range(200))
    assert gate.admits(0.0)
    assert gate.refuses(1.1 * MAX_SECONDS)
    assert gate.refusing


async def test_the_time_that_refusals_take_is_no_delay_of_the_loop() -> None:
    """Else a crowd that is refused would keep everybody out: the more are refused, the later the loop would seem."""
    gate = a_gate()
    await learn(gate, 20, MAX_SECONDS)
    gate.count_read()
    refuse(gate, REFUSED_MAX)
    work(2 * MAX_SECONDS)

    await iteration(gate)

    assert not gate.lagging
    assert gate.admits(0.0)


async def test_a_loop_that_reads_nothing_is_not_measured() -> None:
    """Otherwise an idle process would never sleep, and a pause would look like a delay."""
    gate = a_gate()
    await iteration(gate)
    for _ in range(5):
        await asyncio.sleep(0)

    work(3 * MAX_SECONDS)

    assert not gate.lagging
    assert gate.admits(0.0)
