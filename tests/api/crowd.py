"""Many purchases at once, by the load tests' own client: a general one would take longer than the shop."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from loadtests.client.http import Address, Pool
from shop.sales.models import Sale
from tests.harness import Shop

ANSWER_SECONDS = 30.0


class Click(NamedTuple):
    """One purchase of one unit."""

    user_id: str
    key: str | None = None


class Answered(NamedTuple):
    """What became of a click: `reserved`, `replayed` or a code, and the whole body."""

    outcome: str
    body: dict[str, Any]


async def click_all(shop: Shop, sale: Sale, clicks: Sequence[Click], *, connections: int = 64) -> list[Answered]:
    """Every click at once, over so many connections; the answers in the order of the clicks."""
    address = Address.of(shop.base_url)
    pool = Pool(address, size=connections, connect_timeout_seconds=ANSWER_SECONDS)

    async def one(click: Click) -> Answered:
        headers = shop.headers(click.user_id, key=click.key)
        request = address.request("POST", shop.purchase_path(sale), headers=headers, body=b'{"quantity":1}')
        answer = await pool.exchange(request, timeout_seconds=ANSWER_SECONDS)
        body = json.loads(answer.body)
        return Answered({202: "reserved", 200: "replayed"}.get(answer.status) or body["code"], body)

    try:
        return await asyncio.gather(*(one(click) for click in clicks))
    finally:
        pool.close()


def counted(answers: Sequence[Answered]) -> Counter[str]:
    """How often each outcome came."""
    return Counter(answer.outcome for answer in answers)
