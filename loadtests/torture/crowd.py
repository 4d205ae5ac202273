"""The buyers: they ask until they know, cancel, come back, click twice, and show their receipts.

A steady load: each buyer of a fixed number wants something, thinks, and wants again. The gate lets nobody begin while
the promises are checked.
"""

import asyncio
import itertools
import random
import time
from collections import Counter
from contextlib import suppress

from loadtests.client.answers import Answer, read_answer
from loadtests.client.http import Address, HttpError, Pool, Response
from loadtests.client.purchases import purchase_path, purchase_request
from loadtests.crowd.record import Attempt
from loadtests.torture.driver import Driver, OnSale
from loadtests.torture.purchases import Purchase
from shop.auth import issue_token
from shop.settings import Settings

CONNECT_SECONDS_MAX = 2.0
REQUEST_SECONDS_MAX = 6.0
RETRY_SECONDS_MIN, RETRY_SECONDS_MAX = 0.05, 0.5
KNOWS_SECONDS_MAX = 60.0
THINK_SECONDS = 0.2
IDLE_SECONDS = 0.05
QUIET_SECONDS_MAX = 90.0
REMEMBERED_USERS = 200
COMES_BACK_SHARE = 0.15
CLICKS_TWICE_SHARE = 0.05
ASKS_AGAIN_SHARE = 0.05
CANCELS_SHARE = 0.10
GONE = frozenset({200, 404, 409, 410})


class Crowd:
    """Everybody who buys. `tally` counts codes of answers; `acknowledged` promises that were new."""

    def __init__(self, base_url: str, settings: Settings, driver: Driver, *, buyers: int, seed: int) -> None:
        self.in_flight = 0
        self.requests = 0
        self.purchases = 0
        self.acknowledged = 0
        self.tally: Counter[str] = Counter()
        self.open = asyncio.Event()
        self._address = Address.of(base_url)
        self._pool = Pool(self._address, size=2 * buyers + 8, connect_timeout_seconds=CONNECT_SECONDS_MAX)
        self._settings = settings
        self._driver = driver
        self._buyers = buyers
        self._draw = random.Random(seed)  # noqa: S311 - it decides nothing that must be repeated
        self._numbers = itertools.count(1)
        self._known: list[tuple[str, str]] = []
        self._busy = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Crowd":
        self._tasks = [asyncio.create_task(self._buyer()) for _ in range(self._buyers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._pool.close()

    def require_alive(self) -> None:
        """Raise what has ended a buyer, if anything has: they never end by themselves."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def quiet(self) -> bool:
        """Let nobody begin, and return when the outcome of every purchase is known; False if not in time."""
        self.open.clear()
        deadline = time.monotonic() + QUIET_SECONDS_MAX
        while self._busy:
            self.require_alive()
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(IDLE_SECONDS / 5)
        return True

    def new_purchase(self, sale: OnSale, *, user: tuple[str, str] | None = None, quantity: int = 1) -> Purchase:
        """A wish of somebody new, or of this user; it is part of the sale's record from now on."""
        number = next(self._numbers)
        if user is None:
            user_id = f"t{number:010d}"
            user = (user_id, issue_token(self._settings, user_id=user_id, role="shopper"))
        purchase = Purchase(number, sale.id, *user, key=f"torture-{number}", quantity=quantity)
        sale.purchases.append(purchase)
        self.purchases += 1
        return purchase

    async def ask(self, purchase: Purchase) -> None:
        """Ask once, and note what came back."""
        path, key, quantity = purchase_path(purchase.sale_id), purchase.key, purchase.quantity
        request = purchase_request(self._address, path, token=purchase.token, key=key, quantity=quantity)
        status, sent_at = 0, time.monotonic()
        self.in_flight += 1
        try:
            response = await self._pool.exchange(request, timeout_seconds=REQUEST_SECONDS_MAX)
            status, answer = response.status, read_answer(response)
        except HttpError as error:
            answer = Answer(error.code)
        finally:
            self.in_flight -= 1
        told = (status, answer.code, answer.order_id, sent_at, time.monotonic())
        attempt = Attempt(purchase.number, purchase.user_id, key, *told)
        self.requests += 1
        self.tally[attempt.code] += 1
        self.acknowledged += attempt.order_id is not None and not purchase.promised
        purchase.record(attempt, answer.statement)

    async def until_known(self, purchase: Purchase) -> None:
        """Ask with the same key until the answer is final, as a real client would."""
        deadline = time.monotonic() + KNOWS_SECONDS_MAX
        pause = RETRY_SECONDS_MIN
        while True:
            await self.ask(purchase)
            if purchase.settled or time.monotonic() > deadline:
                return
            await asyncio.sleep(pause * self._draw.uniform(0.5, 1.0))
            pause = min(2 * pause, RETRY_SECONDS_MAX)

    async def cancel(self, purchase: Purchase) -> None:
        """Give the order back; a cancellation that was confirmed is part of the record."""
        order_id = min(purchase.order_ids)
        response = await self._until_told("POST", f"/v1/orders/{order_id}/cancel", purchase, {}, GONE)
        purchase.cancelled = response is not None and response.status == 200

    async def show_receipt(self, purchase: Purchase, *, seconds: float) -> bool:
        """Ask for the order with its receipt until it is there; False when it is gone or not there in time."""
        receipt = {"Receipt": purchase.receipt} if purchase.receipt else {}
        order_id = min(purchase.order_ids)
        response = await self._until_told("GET", f"/v1/orders/{order_id}", purchase, receipt, GONE, seconds=seconds)
        return response is not None and response.status == 200

    async def _buyer(self) -> None:
        while True:
            await asyncio.sleep(self._draw.uniform(0.0, 2 * THINK_SECONDS))
            await self.open.wait()
            sale = self._driver.choose(self._draw)
            if sale is None:
                await asyncio.sleep(IDLE_SECONDS)
                continue
            self._busy += 1
            try:
                await self._buy(sale)
            finally:
                self._busy -= 1

    async def _buy(self, sale: OnSale) -> None:
        draw, chance = self._draw, self._draw.random
        user = draw.choice(self._known) if self._known and chance() < COMES_BACK_SHARE else None
        purchase = self.new_purchase(sale, user=user, quantity=2 if chance() < 0.1 else 1)
        if chance() < CLICKS_TWICE_SHARE:
            await asyncio.gather(self.until_known(purchase), self.until_known(purchase))
        else:
            await self.until_known(purchase)
        if not purchase.promised:
            return
        if len(self._known) < REMEMBERED_USERS:
            self._known.append((purchase.user_id, purchase.token))
        else:
            self._known[draw.randrange(REMEMBERED_USERS)] = (purchase.user_id, purchase.token)
        if chance() < ASKS_AGAIN_SHARE:
            await self.ask(purchase)
        if chance() < CANCELS_SHARE:
            await self.cancel(purchase)

    async def _until_told(
        self,
        method: str,
        path: str,
        purchase: Purchase,
        headers: dict[str, str],
        final: frozenset[int],
        *,
        seconds: float = KNOWS_SECONDS_MAX,
    ) -> Response | None:
        """Ask about an order until the answer is one of these; None when it does not come in time."""
        fields = {"Authorization": f"Bearer {purchase.token}", **headers}
        request = self._address.request(method, path, headers=fields)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.requests += 1
            with suppress(HttpError):
                response = await self._pool.exchange(request, timeout_seconds=REQUEST_SECONDS_MAX)
                if response.status in final:
                    return response
            await asyncio.sleep(RETRY_SECONDS_MIN)
        return None
