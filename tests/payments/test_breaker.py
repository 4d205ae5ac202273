"""The breaker by itself: who may ask, and whose luck decides."""

import asyncio
from contextlib import suppress

import pytest

from shop.breaker import Breaker, CircuitOpen
from tests.harness import wait_until

COOLDOWN_SECONDS = 0.05


class Broken(Exception):
    """What counts as a failure."""


def breaker(changes: list[bool], *, failures_max: int = 2, cooldown_seconds: float = COOLDOWN_SECONDS) -> Breaker:
    return Breaker(failures_max=failures_max, cooldown_seconds=cooldown_seconds, tell=changes.append)


def fail(found: Breaker) -> None:
    with suppress(Broken), found.asked(Broken):
        raise Broken


def succeed(found: Breaker) -> None:
    with found.asked(Broken):
        pass


async def until_admitted(found: Breaker, *, fails: bool) -> None:
    """Ask until somebody may, and let that one fail or not."""

    async def admitted() -> bool:
        try:
            (fail if fails else succeed)(found)
        except CircuitOpen:
            return False
        return True

    await wait_until(admitted, reason="one is let through")


async def test_it_opens_after_so_many_failures_in_a_row() -> None:
    changes: list[bool] = []
    found = breaker(changes, failures_max=3)

    fail(found)
    fail(found)
    succeed(found)
    fail(found)
    fail(found)
    assert changes == []
    fail(found)

    assert changes == [True]


async def test_nobody_asks_while_it_is_open() -> None:
    found = breaker([], failures_max=1, cooldown_seconds=60)
    fail(found)

    with pytest.raises(CircuitOpen) as caught:
        succeed(found)

    assert 0 < caught.value.cooldown_seconds <= 60


async def test_an_answer_after_the_cooldown_closes_it() -> None:
    changes: list[bool] = []
    found = breaker(changes, failures_max=1)
    fail(found)

    await until_admitted(found, fails=False)

    assert changes == [True, False]
    succeed(found)


async def test_a_failure_after_the_cooldown_opens_it_again() -> None:
    """One is enough, however many it takes at first."""
    changes: list[bool] = []
    found = breaker(changes, failures_max=2)
    fail(found)
    fail(found)

    await until_admitted(found, fails=True)

    assert changes == [True, True]
    with pytest.raises(CircuitOpen):
        succeed(found)


async def half_open() -> Breaker:
    """One whose cool-down is over."""
    found = breaker([], failures_max=1, cooldown_seconds=0.01)
    fail(found)
    loop = asyncio.get_running_loop()
    end = loop.time() + 0.01

    async def over() -> bool:
        return loop.time() > end

    await wait_until(over, reason="the cool-down is over")
    return found


async def test_only_one_at_a_time_tries_whether_it_is_back() -> None:
    found = await half_open()

    with found.asked(Broken), pytest.raises(CircuitOpen):
        succeed(found)

    succeed(found)


async def test_one_who_leaves_while_trying_lets_the_next_one_try() -> None:
    found = await half_open()
    with pytest.raises(asyncio.CancelledError), found.asked(Broken):
        raise asyncio.CancelledError

    succeed(found)


async def test_what_is_no_failure_of_the_service_shows_that_it_is_well() -> None:
    changes: list[bool] = []
    found = breaker(changes, failures_max=2)

    fail(found)
    with pytest.raises(ValueError, match="mine"), found.asked(Broken):
        raise ValueError("mine")
    fail(found)

    assert changes == []
