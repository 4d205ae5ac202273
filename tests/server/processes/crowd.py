"""Buyers who come one after another over kept-alive connections, and what each of them was told."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from loadtests.client.http import Address, ConnectError, Connection, ConnectionLostError, Response
from shop.sales.models import Sale
from tests.crowd import recorded
from tests.harness import Shop, new_user_id, wait_until

ANSWER_SECONDS = 30.0


@dataclass
class SteadyCrowd:
    """Each connection brings one buyer after another, each with a key of their own, until the crowd is told to go.

    `lost` counts the requests that got no answer; each is sent once more, on a new connection. `unannounced` counts
    the connections that were closed although their last answer did not say so. `refused` counts the connections that
    could not be opened: the buyer goes home.
    """

    shop: Shop
    sale: Sale
    orders: dict[str, str] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    lost: int = 0
    unannounced: int = 0
    refused: int = 0
    going: bool = False

    async def run(self, *, connections: int) -> None:
        """Return when the crowd has gone."""
        await asyncio.gather(*(self._come_one_by_one() for _ in range(connections)))

    async def until_served(self, more: int) -> None:
        """Wait until so many more buyers have an answer."""
        before = self.statuses.total()

        async def served() -> bool:
            return self.statuses.total() >= before + more

        await wait_until(served, reason=f"{more} more buyers are served")

    @property
    def perfect(self) -> bool:
        """Whether every buyer was told at the first try that they have a unit, and no connection broke."""
        return not self.lost and not self.unannounced and not self.refused and set(self.statuses) == {202}

    async def _come_one_by_one(self) -> None:
        address = Address.of(self.shop.base_url)
        connection: Connection | None = None
        while not self.going:
            user_id = new_user_id()
            headers = self.shop.headers(user_id, key=f"key-of-{user_id}")
            request = address.request("POST", self.shop.purchase_path(self.sale), headers=headers, body=b"{}")
            try:
                connection = await self._buy(address, connection, user_id, request)
            except ConnectError:
                self.refused += 1
                return
        if connection is not None:
            connection.close()

    async def _buy(
        self, address: Address, connection: Connection | None, user_id: str, request: bytes
    ) -> Connection | None:
        """One purchase; returns the connection if it may be used again. Raises ConnectError."""
        while True:
            if connection is not None and not connection.usable:
                self.unannounced += 1
            if connection is None or not connection.usable:
                connection = await Connection.open(address, timeout_seconds=ANSWER_SECONDS)
            try:
                answer = await connection.exchange(request, timeout_seconds=ANSWER_SECONDS)
            except ConnectionLostError:
                self.lost += 1
                connection = None
                continue
            self._note(user_id, answer)
            return None if answer.headers.get(b"connection") == b"close" else connection

    def _note(self, user_id: str, answer: Response) -> None:
        self.statuses[answer.status] += 1
        if answer.status in {200, 202}:
            self.orders[user_id] = json.loads(answer.body)["id"]


@asynccontextmanager
async def buying(shop: Shop, sale: Sale, *, connections: int = 24, warm_up: int = 100) -> AsyncIterator[SteadyCrowd]:
    """Within it a crowd buys; it has come when it begins, and gone when it ends."""
    crowd = SteadyCrowd(shop, sale)
    running = asyncio.create_task(crowd.run(connections=connections))
    try:
        await crowd.until_served(warm_up)
        yield crowd
    finally:
        crowd.going = True
        await running


async def assert_all_recorded(crowd: SteadyCrowd) -> None:
    """Every order that was promised has one row, no other has one, and the books balance."""
    await crowd.shop.drained(crowd.sale)
    assert await recorded(crowd.shop, crowd.sale) == sorted(crowd.orders.values())
    report = await crowd.shop.audit(crowd.sale)
    assert report.balanced, report.violations
