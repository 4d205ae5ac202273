"""The whole way, with real workers: an order, a webhook, and a worker that is killed at the worst moment."""

import asyncio
import signal
from pathlib import Path

from shop.settings import Settings
from shop.worker import running_worker
from tests.harness import wait_until
from tests.notifications.outbox import the_delivery
from tests.notifications.receivers import merchant
from tests.orders.catalogue import line, placed
from tests.processes import copy_of, own_shop


async def test_a_worker_killed_after_it_told_is_followed_by_one_that_tells_it_under_the_same_id(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """At least once: nothing is lost between telling and recording, and the merchant can know it for the same."""
    settings = copy_of(
        fresh_settings,
        webhook_private_addresses_allowed=True,
        delivery_timeout_seconds=0.9,
        delivery_lease_seconds=1.0,
    )
    async with own_shop(settings, tmp_path) as own, merchant() as receiver:
        client = await own.shop.client()
        answer = await client.post("/v1/admin/webhooks", headers=own.shop.admin_headers(), json={"url": receiver.url()})
        assert answer.status_code == 201, answer.text
        own.processes.start_worker("first", SHOP_FAULT="after_delivery")
        await placed(own.shop, "ada", line(await own.shop.make_product()))

        assert await own.processes.until_dead("first") == -signal.SIGKILL
        assert len(receiver.requests) == 1
        assert (await the_delivery(own.shop.database)).delivered_at is None

        async with running_worker(own.shop.settings):

            async def delivered() -> bool:
                return (await the_delivery(own.shop.database)).delivered_at is not None

            await wait_until(delivered, reason="the next worker has told it")

    first, second = receiver.requests
    assert first.id == second.id
    assert first.body == second.body


async def test_two_workers_tell_of_each_purchase_once(fresh_settings: Settings, tmp_path: Path) -> None:
    """As long as none of them dies, at least once is once."""
    settings = copy_of(fresh_settings, webhook_private_addresses_allowed=True)
    async with own_shop(settings, tmp_path, worker_here=True) as own, merchant() as receiver:
        own.processes.start_worker("other")
        await (await own.shop.client()).post(
            "/v1/admin/webhooks", headers=own.shop.admin_headers(), json={"url": receiver.url()}
        )
        sale = await own.shop.open_sale(units=30)
        answers = await asyncio.gather(*(own.shop.buy(sale) for _ in range(40)))
        bought = {answer.json()["id"] for answer in answers if answer.status_code == 202}

        async def all_told() -> bool:
            return len(receiver.requests) >= len(bought)

        await wait_until(all_told, reason="every purchase is told")

    assert len(bought) == 30
    assert sorted(request.event["data"]["order_id"] for request in receiver.requests) == sorted(bought)
