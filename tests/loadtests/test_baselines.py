"""The leanest contender keeps what it says, or the price of the other promises would be no number."""

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import httpx
import pytest
import redis.asyncio as aioredis

from loadtests.baselines.asgi_best import GROUP_MAX, KEYS, PATH, PURCHASES
from loadtests.bench.generator import play
from loadtests.bench.messages import Plan
from loadtests.bench.requests import Shoppers, tokens
from shop.embedded import EmbeddedServers
from tests.harness import NO_TLS, wait_until
from tests.ports import unused_port
from tests.source_tree import ROOT

SECRET = "a-secret-of-the-tests-that-is-long-enough"
STOCK, BUYERS = KEYS


@dataclass
class Leanest:
    """The contender as a process of its own, and its Redis."""

    client: httpx.AsyncClient
    redis: aioredis.Redis

    async def buy(self, token: bytes, *, body: bytes = b'{"quantity":1}') -> httpx.Response:
        headers = {"Authorization": f"Bearer {token.decode()}", "Content-Type": "application/json"}
        return await self.client.post(PATH, headers=headers, content=body)

    async def rush(self, buyers: list[bytes]) -> Counter[int]:
        return Counter(each.status_code for each in await asyncio.gather(*map(self.buy, buyers)))


@pytest.fixture(scope="module")
async def process(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The address of the contender, on the Valkey of all tests."""
    port, log = unused_port(), tmp_path_factory.mktemp("leanest") / "log"
    environment = {**os.environ, "SHOP_SECRET_KEY": SECRET, "SHOP_REDIS_URL": servers.redis_url}
    command = [sys.executable, "-m", "uvicorn", "loadtests.baselines.asgi_best:app", "--port", str(port)]
    with log.open("wb") as output:
        running = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=environment, stdout=output, stderr=output
        )
    address = f"http://127.0.0.1:{port}"
    try:
        await wait_until(lambda: answers(address, running, log), reason="the contender answers")
        yield address
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()


async def answers(address: str, running: asyncio.subprocess.Process, log: Path) -> bool:
    assert running.returncode is None, f"it has ended: {log}"
    with suppress(httpx.TransportError):
        async with httpx.AsyncClient(verify=NO_TLS) as client:
            return (await client.get(address)).status_code == 404
    return False


@pytest.fixture
async def leanest(process: str, servers: EmbeddedServers) -> AsyncIterator[Leanest]:
    """The contender without a buyer."""
    async with (
        httpx.AsyncClient(base_url=process, verify=NO_TLS) as client,
        aioredis.Redis.from_url(servers.redis_url, decode_responses=True) as redis,
    ):
        yield Leanest(client, redis)
        await redis.delete(*KEYS)


def shoppers(count: int, *, secret: str = SECRET, issued_at: float | None = None) -> list[bytes]:
    issued = int(issued_at or time.time())
    return list(
        tokens(Shoppers(name="lean", count=count, secret=secret, issuer="shop", audience="shop", issued_at=issued))
    )


async def test_the_leanest_sells_every_unit_once(leanest: Leanest) -> None:
    """More at once than one script call carries."""
    await leanest.redis.set(STOCK, GROUP_MAX + 20)

    buyers = Shoppers(
        name="many", count=GROUP_MAX + 50, secret=SECRET, issuer="shop", audience="shop", issued_at=int(time.time())
    )
    port = leanest.client.base_url.port
    assert port
    found = await play(Plan(port=port, path=PATH, shoppers=buyers, connections=GROUP_MAX + 50))

    assert found.statuses == {"202": GROUP_MAX + 20, "409": 30}
    assert await leanest.redis.get(STOCK) == "0"
    assert await cast("Awaitable[int]", leanest.redis.hlen(BUYERS)) == GROUP_MAX + 20


async def test_a_buyer_of_the_leanest_has_one_unit_however_often_they_ask(leanest: Leanest) -> None:
    await leanest.redis.set(STOCK, 100)
    one, other = shoppers(2)

    assert await leanest.rush([one] * 20 + [other]) == {202: 2, 409: 19}

    assert (await leanest.buy(one)).json() == {"code": "over_limit"}
    assert await leanest.redis.get(STOCK) == "98"


async def test_a_buyer_who_is_twice_in_one_group_has_one_unit(leanest: Leanest) -> None:
    answered = await cast("Awaitable[str]", leanest.redis.eval(PURCHASES, 2, *KEYS, "2", "ada", "ada", "bob", "eve"))

    assert answered == "rors"
    assert await leanest.redis.get(STOCK) == "0"


async def test_the_leanest_sells_to_nobody_without_a_good_token(leanest: Leanest) -> None:
    (forged,), (expired,) = shoppers(1, secret="another"), shoppers(1, issued_at=time.time() - 7200)
    (good,) = shoppers(1)

    assert await leanest.rush([forged, expired, good[:-2], b"none"]) == {401: 4}
    assert (await leanest.buy(good, body=b'{"quantity":2}')).status_code == 409

    assert await leanest.redis.exists(*KEYS) == 0
