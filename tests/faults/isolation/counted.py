"""What the metrics say of the items of a loop that fail, and sales for loops over them."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import REGISTRY

from shop.sales import service
from shop.sales.models import Sale
from tests.harness import TESTER, Shop


def failures(loop: str) -> float:
    """How often an item of this loop failed in this process."""
    return REGISTRY.get_sample_value("shop_item_failures_total", {"loop": loop}) or 0.0


def failing(loop: str) -> float:
    """How many items of this loop fail now."""
    return REGISTRY.get_sample_value("shop_items_failing", {"loop": loop}) or 0.0


@contextmanager
def one_more_fails(loop: str) -> Iterator[None]:
    """The block makes one item of this loop fail: it is counted, and shown as failing."""
    counted, shown = failures(loop), failing(loop)
    yield
    assert (failures(loop) > counted, failing(loop) - shown) == (True, 1)


async def scheduled(shop: Shop) -> Sale:
    """A sale that the controller is to load."""
    sale = await shop.draft_sale(units=10)
    async with shop.database.transaction() as session:
        return await service.schedule(session, TESTER, sale.id)
