"""The Date of what the server answers by itself: the refusals of the purchase lane, and of what is no HTTP."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from email.utils import format_datetime, parsedate_to_datetime

import httpx

from tests.harness import Shop, new_user_id, outcome, running_shop, slowdown, wait_until
from tests.processes import copy_of, lasting
from tests.server.raw import exchange

AGE_SECONDS_MAX = 2
# Longer than a Date may be old, so that one that stands still is seen.
WATCHED_SECONDS = 3.0
BURST = 24
REFUSALS = {"unauthorized", "sold_out", "rate_limited", "overloaded", "bad_request"}

Refusals = list[tuple[str, str]]


async def test_every_refusal_has_a_date_that_is_that_of_now(shop: Shop) -> None:
    """A client sets its clock by it, to come back at `starts_at`; the bytes of the Date are kept for a second."""
    sold_out, open_sale = await shop.open_sale(units=1), await shop.open_sale(units=1_000)
    await shop.bought(sold_out)
    await shop.until_told(sold_out, "sold_out")
    # One purchase a buyer; and whoever comes behind somebody else in a loop iteration would wait for too long.
    hurried = copy_of(shop.settings, purchase_rate_per_second=1e-4, purchase_burst=1, overload_delay_seconds=1e-9)
    async with running_shop(hurried, worker=False) as other:
        client, user = await shop.client(), new_user_id()

        async def refused() -> Refusals:
            asked: list[Awaitable[httpx.Response]] = [
                client.post(shop.purchase_path(open_sale), json={"quantity": 1}),
                shop.buy(sold_out),
                *(other.buy(open_sale, user) for _ in range(BURST)),
            ]
            answers = [answer for answer in await asyncio.gather(*asked) if answer.is_error]
            unread = await exchange(shop, b"nonsense\r\n\r\n")
            found = [(outcome(answer), answer.headers.get("date", "")) for answer in answers]
            return [*found, (unread.refusal(), unread.headers.get("date", ""))]

        before = await _see_all(refused)
        await lasting(WATCHED_SECONDS)
        after = await _see_all(refused)
    assert [code for code in REFUSALS if not after[code] > before[code]] == [], "their Date stands still"


async def _see_all(refused: Callable[[], Awaitable[Refusals]]) -> dict[str, float]:
    """Ask until each refusal has come, and read the Date of all that come; the newest of each refusal."""
    seen: dict[str, float] = {}

    async def all_seen() -> bool:
        for code, date in await refused():
            seen[code] = _moment_of_now(code, date)
        return seen.keys() >= REFUSALS

    await wait_until(all_seen, reason="each refusal has come")
    return seen


def _moment_of_now(code: str, date: str) -> float:
    """The Date in seconds. It is in the one form that RFC 9110 lets a server write (IMF-fixdate), and not old."""
    assert date, f"{code} has no Date"
    moment = parsedate_to_datetime(date)
    assert format_datetime(moment, usegmt=True) == date, code
    age_seconds, allowed = int(time.time()) - moment.timestamp(), float(AGE_SECONDS_MAX)
    if age_seconds > allowed:  # A machine that is slow just now also delays the tick that renews it.
        allowed *= slowdown()
    assert 0 <= age_seconds <= allowed, f"the Date of {code} is {age_seconds} s old"
    return moment.timestamp()
