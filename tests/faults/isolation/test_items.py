"""One item's failure is its own: the others of its loop are served, and it is tried again after a back-off."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest
from structlog.typing import EventDict

from shop.failure_isolation import Isolation
from shop.redis import NotSent
from shop.settings import Settings
from shop.stopping import Backoff, supervise
from tests.faults.isolation.counted import failing, failures
from tests.harness import wait_until
from tests.processes import copy_of


@pytest.fixture
def isolation(settings: Settings, request: pytest.FixtureRequest) -> Isolation:
    """One of a loop that only this test has, with short back-offs."""
    quick = copy_of(settings, retry_delay_min_seconds=0.3, item_retry_seconds_max=0.3)
    return Isolation(request.node.name, quick)


def unless(poisoned: str, served: list[str], error: Exception) -> Callable[[str], Awaitable[None]]:
    """Work that serves every item but one."""

    async def work(item: str) -> None:
        if item == poisoned:
            raise error
        served.append(item)

    return work


async def test_an_item_that_fails_keeps_nobody_waiting_and_is_counted(
    isolation: Isolation, request: pytest.FixtureRequest
) -> None:
    served: list[str] = []

    await isolation.each("abc", unless("b", served, ZeroDivisionError()))

    assert served == ["a", "c"]
    assert (failures(request.node.name), failing(request.node.name)) == (1, 1)


async def test_an_item_that_failed_is_left_alone_for_its_back_off_and_then_served(
    isolation: Isolation, request: pytest.FixtureRequest
) -> None:
    served: list[str] = []
    await isolation.each("b", unless("b", served, ZeroDivisionError()))

    await isolation.each("bc", unless("", served, ZeroDivisionError()))
    assert served == ["c"]

    async def served_too() -> bool:
        await isolation.each("b", unless("", served, ZeroDivisionError()))
        return "b" in served

    await wait_until(served_too, reason="it is tried again")
    assert (failures(request.node.name), failing(request.node.name)) == (1, 0)


async def test_a_server_that_is_away_ends_the_round_and_an_item_that_is_too_slow_alone_does_not(
    isolation: Isolation,
) -> None:
    served: list[str] = []

    with pytest.raises(NotSent):
        await isolation.each("abc", unless("b", served, NotSent()))
    assert served == ["a", "c"]

    asked: list[str] = []

    async def away(item: str) -> None:
        asked.append(item)
        raise NotSent

    with pytest.raises(NotSent):
        await isolation.each("defg", away)
    assert asked == ["d", "e"]


async def test_the_stack_of_a_failure_is_logged_once(isolation: Isolation, logged: list[EventDict]) -> None:
    for _ in range(3):
        isolation.failed("a", ZeroDivisionError())

    assert [(event["tries"], event["exc_info"] is not None) for event in logged] == [(1, True), (2, False), (3, False)]


async def test_of_a_batch_only_the_items_that_fail_are_missing(
    isolation: Isolation, request: pytest.FixtureRequest
) -> None:
    async def work(items: Sequence[str]) -> list[str]:
        if {"c", "g"} & set(items):
            raise ZeroDivisionError
        return [item.upper() for item in items]

    assert await isolation.together("abcdefgh", work) == list("ABDEFH")
    assert (failures(request.node.name), failing(request.node.name)) == (2, 2)
    assert await isolation.together("abcg", work) == list("AB")
    assert failures(request.node.name) == 2


async def test_an_item_that_is_gone_is_forgotten(
    isolation: Isolation, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shop.failure_isolation.FORGET_SECONDS", 0.01)
    await isolation.each("a", unless("a", [], ZeroDivisionError()))

    async def forgotten() -> bool:
        return failing(request.node.name) == 0

    await wait_until(forgotten, reason="it is forgotten")


async def test_a_cancellation_is_nobodys_failure(isolation: Isolation, request: pytest.FixtureRequest) -> None:
    async def cancelled(item: str) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await isolation.each("a", cancelled)
    assert failures(request.node.name) == 0


async def test_a_task_that_fails_is_counted_until_it_has_run_for_a_while() -> None:
    stopping, again = asyncio.Event(), asyncio.Event()

    async def run() -> None:
        if not again.is_set():
            again.set()
            raise ZeroDivisionError
        await stopping.wait()

    running = asyncio.create_task(supervise("supervised 7", run, stopping, Backoff(0.01, 0.1)))
    await again.wait()

    async def counted() -> bool:
        return failing("supervised") == 1

    async def recovered() -> bool:
        return failing("supervised") == 0

    await wait_until(counted, reason="it is counted")
    await wait_until(recovered, reason="it has run for a while")
    stopping.set()
    await running
    assert failures("supervised") == 1
