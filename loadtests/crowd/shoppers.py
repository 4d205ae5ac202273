"""The crowd: thousands of shoppers who all want one unit of one sale, and the record of every answer they got.

The seed decides who clicks twice, who hangs up and who sends no key; when things happen is up to the machine. The crowd
only asks and writes down: whether it was told the truth is for `loadtests.judge.verify` to say.
"""

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from loadtests.client.answers import RESERVED, SALE_NOT_STARTED, read_answer
from loadtests.client.http import Address, HttpError, Pool
from loadtests.client.purchases import purchase_path, purchase_request
from loadtests.crowd.record import HUNG_UP, UNANSWERED, Attempt, CrowdRecord, outcome_of_click

PROGRESS_INTERVAL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class RushPlan:
    """What the crowd is to do. `tokens` are pairs (user id, token), one for each shopper.

    The shares are of all shoppers, each drawn by itself: one shopper may click twice and hang up and send no key.
    """

    base_url: str
    sale_id: int
    tokens: Sequence[tuple[str, str]]
    seed: int = 1
    connections: int = 256
    timeout_seconds: float = 120.0
    connect_timeout_seconds: float = 5.0
    request_timeout_seconds: float = 10.0
    # A shopper never asks again sooner than the minimum, which with the timeout bounds the length of the record.
    pause_min_seconds: float = 0.1
    pause_max_seconds: float = 2.0
    double_click_share: float = 0.10
    hang_up_share: float = 0.02
    keyless_share: float = 0.20


@dataclass(frozen=True, slots=True)
class Progress:
    """The run so far. `reserved` and `answered` count shoppers, `by_code` counts attempts."""

    elapsed_seconds: float
    shoppers: int
    answered: int
    reserved: int
    attempts: int
    by_code: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Shopper:
    """One of the crowd and what is peculiar about it. The key is the same for all its attempts."""

    index: int
    user_id: str
    token: str
    key: str | None
    clicks_twice: bool
    hangs_up: bool


async def rush(
    plan: RushPlan, on_progress: Callable[[Progress], None], *, stop: asyncio.Event | None = None
) -> CrowdRecord:
    """Let all shoppers loose at once and return when each has a final answer, at the deadline, or on `stop`.

    `on_progress` is called ten times a second and once at the end; it must not block. What it raises ends the run.
    """
    crowd = _Crowd(plan)
    shopping = asyncio.create_task(crowd.shop())
    reporting = asyncio.create_task(_report(crowd, on_progress))
    stopping = asyncio.create_task((stop or asyncio.Event()).wait())
    tasks = [shopping, reporting, stopping]
    try:
        done, _ = await asyncio.wait(tasks, timeout=plan.timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        crowd.close()
    for task in done:
        task.result()
    on_progress(crowd.progress())
    return crowd.record(complete=shopping in done)


def shoppers_of(plan: RushPlan) -> list[Shopper]:
    """The crowd of a plan: with the same seed always the same, and the shares exact."""
    everyone = range(len(plan.tokens))
    # Not a secret, and it must be repeatable.
    draw = random.Random(plan.seed)  # noqa: S311
    twice, hanging_up, keyless = (
        frozenset(draw.sample(everyone, round(share * len(everyone))))
        for share in (plan.double_click_share, plan.hang_up_share, plan.keyless_share)
    )
    return [
        Shopper(
            index=index,
            user_id=user_id,
            token=token,
            key=None if index in keyless else f"rush-{plan.seed}-{index}",
            clicks_twice=index in twice,
            hangs_up=index in hanging_up,
        )
        for index, (user_id, token) in enumerate(plan.tokens)
    ]


class _Crowd:
    """What the shoppers of one run share: the connections, the record and its tally."""

    def __init__(self, plan: RushPlan) -> None:
        self._plan = plan
        self._address = Address.of(plan.base_url)
        self._pool = Pool(self._address, size=plan.connections, connect_timeout_seconds=plan.connect_timeout_seconds)
        self._jitter = random.Random(plan.seed)  # noqa: S311 - spreads the retries, decides nothing
        self._began = time.monotonic()
        self._attempts: list[Attempt] = []
        self._by_code: Counter[str] = Counter()
        self._outcomes: list[str | None] = [None] * len(plan.tokens)
        self._answered = 0
        self._reserved = 0

    async def shop(self) -> None:
        async with asyncio.TaskGroup() as group:
            for shopper in shoppers_of(self._plan):
                group.create_task(self._shop(shopper))

    def progress(self) -> Progress:
        return Progress(
            elapsed_seconds=round(time.monotonic() - self._began, 3),
            shoppers=len(self._outcomes),
            answered=self._answered,
            reserved=self._reserved,
            attempts=len(self._attempts),
            by_code=dict(self._by_code),
        )

    def record(self, *, complete: bool) -> CrowdRecord:
        return CrowdRecord(
            sale_id=self._plan.sale_id,
            seed=self._plan.seed,
            shoppers=len(self._outcomes),
            complete=complete,
            elapsed_seconds=time.monotonic() - self._began,
            outcomes=tuple(self._outcomes),
            attempts=tuple(self._attempts),
        )

    def close(self) -> None:
        self._pool.close()

    async def _shop(self, shopper: Shopper) -> None:
        """Ask until the answer is final. Who hangs up or clicks twice does so again when the sale had not started."""
        request = self._request(shopper)
        early = True
        for tries in itertools.count():
            if shopper.hangs_up and early:
                await self._hang_up(shopper, request)
            clicks = [self._ask(shopper, request) for _ in range(2 if shopper.clicks_twice else 1)]
            answers = await asyncio.gather(*clicks) if len(clicks) > 1 else [await clicks[0]]
            if outcome := outcome_of_click([attempt for attempt, _ in answers]):
                self._finish(shopper, outcome)
                return
            early = any(attempt.code == SALE_NOT_STARTED for attempt, _ in answers)
            await asyncio.sleep(max(self._pause(wait_seconds, tries) for _, wait_seconds in answers))

    async def _ask(self, shopper: Shopper, request: bytes) -> tuple[Attempt, float | None]:
        """Send one request; the second value is how many seconds the shop wants to be left alone, if it said so."""
        sent_at = None
        try:
            connection = await self._pool.borrow()
            try:
                sent_at = time.monotonic()
                response = await connection.exchange(request, timeout_seconds=self._plan.request_timeout_seconds)
            finally:
                self._pool.give_back(connection)
        except HttpError as error:
            return self._note(shopper, sent_at, 0, error.code), None
        except asyncio.CancelledError:
            if sent_at is not None:
                self._note(shopper, sent_at, 0, UNANSWERED)
            raise
        answer = read_answer(response)
        return self._note(shopper, sent_at, response.status, answer.code, answer.order_id), answer.wait_seconds

    async def _hang_up(self, shopper: Shopper, request: bytes) -> None:
        code = HUNG_UP
        try:
            connection = await self._pool.borrow()
            try:
                connection.send_and_close(request)
            finally:
                self._pool.give_back(connection)
        except HttpError as error:
            code = error.code
        self._note(shopper, None, 0, code)

    def _note(
        self, shopper: Shopper, sent_at: float | None, status: int, code: str, order_id: str | None = None
    ) -> Attempt:
        now = time.monotonic()
        sent_at = now if sent_at is None else sent_at
        attempt = Attempt(shopper.index, shopper.user_id, shopper.key, status, code, order_id, sent_at, now)
        self._attempts.append(attempt)
        self._by_code[code] += 1
        return attempt

    def _finish(self, shopper: Shopper, outcome: str) -> None:
        self._outcomes[shopper.index] = outcome
        self._answered += 1
        self._reserved += outcome == RESERVED

    def _pause(self, wait_seconds: float | None, tries: int) -> float:
        """What the shop asked for, which it has jittered itself; else twice as long each time, jittered here."""
        plan = self._plan
        if wait_seconds is not None:
            return max(wait_seconds, plan.pause_min_seconds)
        grown = min(plan.pause_min_seconds * 2.0 ** min(tries, 16), plan.pause_max_seconds)
        return max(grown * self._jitter.uniform(0.5, 1.0), plan.pause_min_seconds)

    def _request(self, shopper: Shopper) -> bytes:
        path = purchase_path(self._plan.sale_id)
        return purchase_request(self._address, path, token=shopper.token, key=shopper.key)


async def _report(crowd: _Crowd, on_progress: Callable[[Progress], None]) -> None:
    while True:
        await asyncio.sleep(PROGRESS_INTERVAL_SECONDS)
        on_progress(crowd.progress())
