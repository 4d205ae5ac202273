"""How long a round of the torture may take to heal: by the slowdown of the machine, which is measured meanwhile."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from loadtests.torture.healing import HEAL_SECONDS_BAR, seconds_allowed
from loadtests.torture.slowdown import Slowdown

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
