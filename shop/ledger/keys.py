"""The names of the ledger's keys. All keys of one sale and epoch share a hash tag, so one script touches one slot."""

from functools import lru_cache
from typing import NamedTuple

# sale -> epoch, salt, price …: which sales are loaded. A copy that the controller rewrites, never a truth.
DIRECTORY = "shop:sales"


class LedgerKeys(NamedTuple):
    """The keys of one epoch of a sale."""

    sale: str
    buyers: str
    orders: str
    stream: str
    winners: str


@lru_cache(maxsize=4096)
def ledger_keys(sale_id: int, epoch: int) -> LedgerKeys:
    """The keys of this epoch of this sale."""
    tag = f"shop:{{{sale_id}.{epoch}}}"
    return LedgerKeys(f"{tag}:sale", f"{tag}:buyers", f"{tag}:orders", f"{tag}:stream", f"{tag}:winners")
