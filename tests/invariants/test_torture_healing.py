"""How long a round of the torture may take to heal, and what a round that takes longer does to the run."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import cast

import pytest

from loadtests.torture import run
from loadtests.torture.context import Context
from loadtests.torture.crowd import Crowd
from loadtests.torture.driver import Driver
from loadtests.torture.healing import HEAL_SECONDS_BAR, NotHealed, seconds_allowed
from loadtests.torture.plan import Fault, Injection, touches
from loadtests.torture.report import results_of
from loadtests.torture.run import State, TorturePlan
from loadtests.torture.slowdown import Slowdown
from loadtests.torture.testbed import Testbed

ROUNDS = 3
OTHERS = 2
PROBES = 20


def test_healing_may_take_as_much_longer_as_the_machine_is_slower_and_a_minute_at_most() -> None:
    assert [seconds_allowed(HEAL_SECONDS_BAR, slowdown) for slowdown in (1.0, 1.5, 4.0, 9.0)] == [
        15.0,
        22.5,
        60.0,
        60.0,
    ]


def test_the_slowdown_is_that_of_the_round() -> None:
    """Beside the least that the work has ever needed, however slow the first round was."""
    slowdown = Slowdown(cpu_seconds=0.01, took_seconds=[0.05, 0.07])
    assert slowdown.factor == pytest.approx(6.0)

    slowdown.begin_round()
    assert slowdown.factor == 1.0

    slowdown.probe()
    slowdown.probe()
    assert len(slowdown.took_seconds) == 1  # The second came within a second.


def test_others_on_the_same_core_are_a_slowdown() -> None:
    """Two that never rest leave a third of it; all are bound to one core, for as long as the test takes."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        with busy(OTHERS):
            slowdown = Slowdown()
            for _ in range(PROBES):
                slowdown.probe()
                slowdown._due_at = 0.0
    finally:
        os.sched_setaffinity(0, cores)

    assert slowdown.factor > OTHERS / 2 + 0.5


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Within it so many processes use all that they get of the cores that this one may use."""
    call = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    started = [subprocess.Popen(call, stdout=subprocess.PIPE) for _ in range(processes)]
    try:
        for process in started:
            assert process.stdout
            process.stdout.readline()
        yield
    finally:
        for process in started:
            process.kill()
            process.communicate()


async def nothing_is_broken(_: Context, draw: object) -> Injection:
    """A fault that breaks nothing."""
    return Injection()


async def run_of(plan: TorturePlan, monkeypatch: pytest.MonkeyPatch, heals: list[float | NotHealed]) -> State:
    """The state after a course over no shop at all, whose rounds heal in so many seconds, or not."""
    state, coming = State(plan), iter([0.0, *heals])

    async def until_healed(*_: object, since: float) -> float:
        healed = next(coming)
        if isinstance(healed, NotHealed):
            raise healed
        return healed

    async def quiet() -> bool:
        return True

    async def no_lull(_: Crowd) -> None:
        """The crowd does not exist."""

    monkeypatch.setattr(run, "until_healed", until_healed)
    monkeypatch.setattr(run, "_lull", no_lull)
    crowd = cast(Crowd, SimpleNamespace(open=asyncio.Event(), quiet=quiet))
    driver = cast(Driver, SimpleNamespace(unchanging=asyncio.Lock(), sales=[]))
    context = Context(cast(Testbed, None), crowd, driver)
    await run._course(plan, context, state, lambda *_: None, asyncio.Event())
    return state


@pytest.mark.parametrize(
    ("late", "said"),
    [
        (20.0, "I12: healing from nothing took 20.0 s of 15.0 s (slowdown 1.0)"),
        (NotHealed("sale 1: 3 holds are overdue"), "and still sale 1: 3 holds are overdue"),
    ],
    ids=["late", "never"],
)
async def test_a_round_that_heals_too_late_is_a_violation_and_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, late: float | NotHealed, said: str
) -> None:
    """To its end, which is no good one (I12)."""
    fault = Fault("nothing", nothing_is_broken, touches("nothing"))
    plan = TorturePlan(1, minutes=60, faults=[fault], pairs=False, rounds_max=ROUNDS)

    state = await run_of(plan, monkeypatch, [1.0, late, 14.0])
    results = results_of(state)

    assert state.rounds == ROUNDS
    assert (len(results.violations), results.violations[0].endswith(said)) == (1, True), results.violations
    assert (results.ok, results.invariants["I12"], state.finding.clean) == (False, False, True)


async def test_a_slower_machine_is_given_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is late on a quiet machine is not on one that takes twice as long for everything."""
    fault = Fault("nothing", nothing_is_broken, touches("nothing"))
    plan = TorturePlan(1, minutes=60, faults=[fault], pairs=False, rounds_max=1)
    monkeypatch.setattr(Slowdown, "factor", 2.0)

    assert results_of(await run_of(plan, monkeypatch, [29.0])).ok
    assert not results_of(await run_of(plan, monkeypatch, [31.0])).ok
