"""The persisters of a worker: one for each sale that has a ledger, and none for any other."""

import asyncio

from tests.harness import Shop, wait_until

ENDED_SECONDS = 5.0  # a look at the sales every 0.25 s, and a wait for an event of 0.5 s


async def test_a_sale_that_is_settled_has_no_persister_whoever_has_settled_it(shop: Shop) -> None:
    """Each waits at the ledger with a connection of its own, of which a worker has so many and no more."""
    sales = [await shop.open_sale(units=5) for _ in range(3)]
    names = {f"persister {sale.id}" for sale in sales}

    async def running() -> bool:
        return names <= {task.get_name() for task in asyncio.all_tasks()}

    async def ended() -> bool:
        return not names & {task.get_name() for task in asyncio.all_tasks()}

    await wait_until(running, reason="each sale has a persister")
    await shop.forget_sales()
    await wait_until(ended, within=ENDED_SECONDS, reason="none has one any more")
