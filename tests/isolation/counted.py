"""What the metrics say of the items of a loop that fail."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import REGISTRY


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
