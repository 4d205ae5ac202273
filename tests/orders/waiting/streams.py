"""Event streams as a client reads them (the HTML standard, "Server-sent events")."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import redis.asyncio as aioredis

from shop.database import Database
from shop.order_states.followed import FollowedOrders
from shop.orders.order_reader import OrderReader
from shop.settings import Settings
from tests.harness import Shop, new_user_id

EVENT_SECONDS = 30.0


@dataclass(frozen=True)
class Event:
    """What came between two empty lines."""

    fields: dict[str, str]

    @property
    def is_comment(self) -> bool:
        """Whether it is nothing but a comment, which a client does not see."""
        return set(self.fields) == {""}

    @property
    def id(self) -> str:
        return self.fields["id"]

    @property
    def order(self) -> dict[str, Any]:
        """The state that it brings."""
        order: dict[str, Any] = json.loads(self.fields["data"])
        return order

    @property
    def last_change(self) -> str:
        """What became of the order last."""
        word: str = self.order["timeline"][-1]["event"]
        return word


@dataclass
class EventStream:
    """An answer whose body comes bit by bit."""

    answer: httpx.Response
    lines: AsyncIterator[str]

    async def next(self, *, within: float = EVENT_SECONDS) -> Event:
        """The next event that is no comment and brings a state. Raises StopAsyncIteration at the end."""
        while True:
            event = await self.next_of_any_kind(within=within)
            if "data" in event.fields:
                return event

    async def next_of_any_kind(self, *, within: float = EVENT_SECONDS) -> Event:
        """The next event, a comment too. Raises StopAsyncIteration at the end."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(within):
            while line := await anext(self.lines):
                name, _, value = line.partition(":")
                assert name in {"", "id", "data", "retry"}, line
                assert name not in fields, line
                fields[name] = value.removeprefix(" ")
        return Event(fields)

    async def until_ended(self) -> list[Event]:
        """What still comes before the server ends the stream as it should, without comments."""
        events = []
        while True:
            try:
                events.append(await self.next())
            except StopAsyncIteration:
                return events


@asynccontextmanager
async def following(shop: Shop, order_id: str, user_id: str, **headers: str) -> AsyncIterator[EventStream]:
    """The events of an order; the client leaves at the end of the block. `headers` are added to the request's own."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (await shop.client()).stream(
        "GET", f"/v1/orders/{order_id}/events", headers={**shop.headers(user_id), **more}
    ) as answer:
        if answer.status_code != 200:
            await answer.aread()
        yield EventStream(answer, aiter(answer.aiter_lines()))


async def follow_request(shop: Shop, order_id: str, user_id: str, **headers: str) -> httpx.Response:
    """The whole answer to a request for events that is refused, or has nothing to say."""
    async with following(shop, order_id, user_id, **headers) as stream:
        return stream.answer


def order_reader(database: Database, redis: aioredis.Redis, settings: Settings) -> OrderReader:
    """What the streams of a process read with."""
    return OrderReader(FollowedOrders(database, redis, poll_after_ms=settings.poll_after_ms).read, settings)


async def recorded_order(shop: Shop, user: str | None = None, *, units: int = 5) -> tuple[str, str]:
    """The id of an order that has its row, and its buyer, who is somebody new unless named."""
    sale, user = await shop.open_sale(units=units), user or new_user_id()
    order_id = await shop.bought(sale, user)
    await shop.drained(sale)
    return order_id, user
