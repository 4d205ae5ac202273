"""Polls of orders while Postgres hangs: each is told so in time, and the truth as soon as it is back."""

import asyncio
import time
from pathlib import Path

import httpx

from shop.migrating import migrate
from shop.settings import Settings
from tests.api.answers import problem_of
from tests.harness import new_user_id, wait_until
from tests.processes import copy_of, frozen, own_postgres, own_shop

ANSWER_SECONDS_MAX = 2.0
POLLS = 5


async def test_a_postgres_that_hangs_is_said_in_time_to_all_who_poll(fresh_settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    with own_postgres(tmp_path / "postgres") as postgres:
        settings = copy_of(fresh_settings, database_url=postgres.url, order_state_seconds_max=1.2)
        await asyncio.to_thread(migrate, settings)
        async with own_shop(settings, tmp_path, worker_here=True) as own:
            client, user = await own.shop.client(), new_user_id()
            sale = await own.shop.open_sale(units=5)
            order_id = await own.shop.bought(sale, user)
            await own.shop.drained(sale)

            async def asked(pause: float) -> tuple[httpx.Response, float]:
                await asyncio.sleep(pause)
                began = time.monotonic()
                answer = await client.get(f"/v1/orders/{order_id}", headers=own.shop.headers(user))
                return answer, time.monotonic() - began

            before, _ = await asked(0)
            with frozen(postgres.pid):
                found = await asyncio.gather(*(asked(number * 0.5) for number in range(POLLS)))

            async def fresh() -> bool:
                answer, _ = await asked(0)
                return answer.content == before.content

            await wait_until(fresh, reason="the order is read again")

    for answer, seconds in found:
        problem_of(answer, 503, "unavailable")
        assert seconds < ANSWER_SECONDS_MAX
        assert answer.headers["retry-after"]
