"""Public pages while a server is away: from memory for a while, each with its age; the rest says so in time."""

import asyncio
import time
from pathlib import Path

import httpx

from shop.migrating import migrate
from shop.public_pages.admission import STATE_SECONDS_MAX
from shop.settings import Settings
from tests.api.answers import problem_of
from tests.harness import wait_until
from tests.processes import copy_of, frozen, lasting, own_postgres, own_shop

ANSWER_SECONDS_MAX, STALE_SECONDS_MAX = 2.0, 8.0


async def test_a_postgres_that_hangs_takes_no_page_away_that_was_shown_a_moment_ago(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "postgres").mkdir()
    with own_postgres(tmp_path / "postgres") as postgres:
        settings = copy_of(fresh_settings, database_url=postgres.url, public_page_stale_seconds_max=STALE_SECONDS_MAX)
        await asyncio.to_thread(migrate, settings)
        async with own_shop(settings, tmp_path, worker_here=True) as own:
            client = await own.shop.client()
            sale = await own.shop.open_sale(units=5)
            pages = [f"/v1/seckill/sales/{sale.id}", "/v1/seckill/sales", f"/v1/products/{sale.product_id}"]
            before = [(await client.get(path)).json() for path in pages]

            async def asked(path: str) -> tuple[httpx.Response, float]:
                began = time.monotonic()
                return await client.get(path), time.monotonic() - began

            with frozen(postgres.pid):
                await lasting(STATE_SECONDS_MAX)
                await asyncio.gather(*(asked(path) for path in pages))
                found = [await asked(path) for path in pages]
                unknown, unknown_seconds = await asked("/v1/seckill/sales/999")
                await lasting(STALE_SECONDS_MAX)
                late, late_seconds = await asked(pages[0])

            told = [answer.json() for answer, _ in found]
            for shown in (told[0], *told[1]["data"]):
                assert shown["stock"] == "unknown", "an old page would keep somebody from buying"
                shown["stock"] = "plenty"
            assert told == before
            assert all(int(answer.headers["age"]) >= STATE_SECONDS_MAX for answer, _ in found[:2])
            problem_of(unknown, 503, "unavailable")
            problem_of(late, 503, "unavailable")
            assert max(unknown_seconds, late_seconds, *(seconds for _, seconds in found)) < ANSWER_SECONDS_MAX

            async def fresh() -> bool:
                answer = await client.get(pages[0])
                return answer.status_code == 200 and "age" not in answer.headers

            await wait_until(fresh, reason="the page is read again")
