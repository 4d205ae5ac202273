"""What tests of the recovery do: lose data in Redis, wait until the sale goes on, and prove what is left."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from shop.embedded import ValkeyServer
from shop.sales.incidents import repository as recoveries
from shop.sales.incidents.models import Recovery
from shop.sales.models import Sale
from tests.crowd import recorded
from tests.harness import Shop, wait_until

RECOVERED_SECONDS = 30.0


async def unfinished(shop: Shop, sale: Sale) -> Recovery | None:
    """The recovery that a sale is in."""
    async with shop.database.transaction() as session:
        return await recoveries.unfinished(session, sale.id)


async def until_recovered(shop: Shop, sale: Sale, *, epoch: int, recovery: int = 1) -> Sale:
    """Wait until so many recoveries are over and the sale is at this epoch; returns its row."""

    async def over() -> Sale | None:
        row = await shop.row(sale)
        return row if row.recovery >= recovery and row.alarm is None else None

    row: Sale = await wait_until(over, within=RECOVERED_SECONDS, reason="the recovery is over")
    assert (row.epoch, row.recovery) == (epoch, recovery)
    return row


async def until_sold(shop: Shop, sale: Sale, user_id: str | None = None, *, key: str | None = None) -> str:
    """Buy as soon as the sale sells again; returns the order."""

    async def sold() -> str | None:
        answer = await shop.buy(sale, user_id, key=key)
        return answer.json()["id"] if answer.status_code in {200, 202} else None

    order_id: str = await wait_until(sold, within=RECOVERED_SECONDS, reason="the sale sells again")
    return order_id


async def assert_kept(shop: Shop, sale: Sale, promised: Iterable[str]) -> None:
    """Once all is drained, exactly the promised orders have a row, and every invariant holds."""
    await shop.drained(sale)
    promised = sorted(promised)

    async def all_recorded() -> bool:
        return await recorded(shop, sale) == promised

    await wait_until(all_recorded, within=15.0, reason="what was promised is recorded")
    await shop.drained(sale)
    report = await shop.audit(sale)
    assert report.balanced, report.violations


def keep_copy(valkey: ValkeyServer, copy: Path) -> None:
    """Stop the server, copy its data as it is, and start it again."""
    valkey.stop()
    shutil.copytree(valkey.directory / "appendonlydir", copy)
    valkey.start()


def put_back(valkey: ValkeyServer, copy: Path | None) -> None:
    """Stop the server, and start it on the older copy of its data, or on nothing."""
    valkey.stop()
    shutil.rmtree(valkey.directory / "appendonlydir")
    if copy is not None:
        shutil.copytree(copy, valkey.directory / "appendonlydir")
    valkey.start()
