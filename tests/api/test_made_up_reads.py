"""What a client makes up is never written: nothing of it reaches the ledger's append-only file."""

import asyncio
import uuid
from pathlib import Path

from shop.settings import Settings
from tests.harness import Shop
from tests.processes import own_shop

WRITES = ("set", "setex", "psetex", "hset", "del", "unlink", "expire", "pexpire", "evalsha", "xadd", "incr", "incrby")
ROUNDS = 6


async def written(shop: Shop) -> tuple[int, int]:
    """The bytes of the append-only file, and how many commands have written."""
    persistence = await shop.redis.info("persistence")
    calls = await shop.redis.info("commandstats")
    return persistence["aof_current_size"], sum(calls.get(f"cmdstat_{name}", {}).get("calls", 0) for name in WRITES)


def made_up(n: int) -> list[str]:
    """Paths that nobody but a client has thought of."""
    return [
        f"/v1/products/{10**12 + n}",
        f"/v1/products?starting_after={10**9 + n}&limit={n % 100 + 1}",
        f"/v1/products?q={uuid.uuid4()}",
        f"/v1/seckill/sales/{10**8 + n}",
        f"/v1/seckill/sales?starting_after={10**8 + n}",
        f"/v1/orders/{uuid.uuid4()}",
        f"/v1/orders/{uuid.uuid4()}/events",
        f"/v1/orders?starting_after={uuid.uuid4()}",
        f"/errors/{uuid.uuid4().hex}",
        f"/{uuid.uuid4().hex}",
    ]


async def test_reads_of_what_is_not_there_write_nothing(fresh_settings: Settings, tmp_path: Path) -> None:
    """Neither under its name nor as a counter, whoever asks; `appendfsync` would make each a wait for the disk."""
    async with own_shop(fresh_settings, tmp_path) as own:
        shop = own.shop
        client = await shop.client()
        # No sale, no worker: nobody else writes. The first page is the shop's own, and is kept before.
        await client.get("/v1/products")
        await client.get("/v1/products?limit=100")
        before = await written(shop)
        for n in range(ROUNDS):
            headers = shop.headers() if n % 2 else {}
            answers = await asyncio.gather(*(client.get(path, headers=headers) for path in made_up(n)))
            assert {answer.status_code for answer in answers} <= {200, 401, 404, 422}

        assert await written(shop) == before
