"""A crowd that does not give up, and the proof that each of its orders is recorded once."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from uuid import UUID

import httpx
from sqlalchemy import select

from shop.orders.models import Order
from shop.sales.models import Sale
from tests.harness import OutOfTime, Shop, new_user_id, outcome, wait_until

RETRY_SECONDS = 0.02
PATIENCE_SECONDS = 60.0
FINAL = frozenset({"reserved", "replayed", "sold_out", "sale_ended", "over_limit"})


@dataclass
class Crowd:
    """Buyers who come one after another in a few queues, each with a key; each asks until the answer is final.

    `orders` has the order of each buyer who won, `passing` counts the answers that were not final.
    """

    shop: Shop
    sale: Sale
    orders: dict[str, str] = field(default_factory=dict)
    finals: Counter[str] = field(default_factory=Counter)
    passing: Counter[str] = field(default_factory=Counter)
    stopped: bool = False

    async def run(self, *, buyers: int, queues: int = 8) -> "Crowd":
        """Let so many buyers in; it returns when each has a final answer, or when the crowd was stopped."""
        waiting = iter([new_user_id() for _ in range(buyers)])
        await asyncio.gather(*(self._queue(waiting) for _ in range(queues)))
        return self

    async def until(self, finals: int) -> None:
        """Wait until so many buyers have a final answer."""

        async def served() -> bool:
            return self.finals.total() >= finals

        await wait_until(served, reason=f"{finals} buyers were served; {self.passing}")

    async def once(self, user_id: str) -> str:
        """One try of a buyer: what the answer means; `reset` when there was none."""
        try:
            answer = await self.shop.buy(self.sale, user_id, key=f"key-of-{user_id}")
        except httpx.TransportError:
            return "reset"
        found = outcome(answer)
        if found in {"reserved", "replayed"}:
            known = self.orders.setdefault(user_id, answer.json()["id"])
            assert known == answer.json()["id"], "the same key named two orders"
        return found

    async def _queue(self, waiting: Iterator[str]) -> None:
        clock = asyncio.get_running_loop()
        for user_id in waiting:
            deadline = clock.time() + PATIENCE_SECONDS
            while (found := await self.once(user_id)) not in FINAL:
                self.passing[found] += 1
                if self.stopped:
                    return
                if clock.time() > deadline:
                    raise OutOfTime(f"no final answer for a buyer within {PATIENCE_SECONDS:g} s: {self.passing}")
                await asyncio.sleep(RETRY_SECONDS)
            self.finals[found] += 1


async def recorded(shop: Shop, sale: Sale) -> list[str]:
    """The orders of a sale that have a row, as often as they have one."""
    async with shop.database.transaction() as session:
        rows = await session.execute(select(Order.id).where(Order.sale_id == sale.id))
    return sorted(str(order_id) for (order_id,) in rows)


async def assert_each_recorded_once(shop: Shop, sale: Sale, promised: Iterable[str]) -> None:
    """Once all is drained, every promised order has one row, no other order has one, and the audit balances."""
    row = await shop.drained(sale)
    assert row.alarm is None
    assert await recorded(shop, sale) == sorted(promised)
    report = await shop.audit(sale)
    assert report.balanced, report.violations


def ids_of(answers: Iterable[httpx.Response]) -> set[str]:
    """The orders that these answers promise."""
    return {str(UUID(answer.json()["id"])) for answer in answers if answer.status_code in {200, 202}}
