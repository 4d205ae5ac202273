"""The sales that this process sells, and those that it has left and still answers for."""

from typing import NamedTuple

from shop.ledger.receipts import Signer
from shop.seckill.checking import Wish
from shop.seckill.group_commit import GroupCommit
from shop.seckill.prepared import SoldOutAnswer
from shop.seckill.purchase import order_meant


class OnSale(NamedTuple):
    """A sale that this process sells: the way to its ledger, and what is answered when nothing is left."""

    group: GroupCommit
    sold_out: SoldOutAnswer

    def cached_refusal(self, wish: Wish, path: str, request_id: bytes) -> bytes | None:
        """The body of "sold out" if nothing is left and this buyer has won nothing; else the ledger must be asked."""
        latch = self.group.latch
        if not latch.closed or not latch.knows_sold_out(order_meant(self.group.sale, wish.user_id, wish.key)):
            return None
        return self.sold_out.body(latch.seq, path, request_id)


class Registry:
    """What the lane sells. Those who follow the directory and the heartbeat change it; a request only reads it."""

    def __init__(self, signer: Signer) -> None:
        # (sale, epoch) whose ledger has lost an order that was reserved here; who follows the directory reports it.
        self.rolled_back: set[tuple[int, int]] = set()
        # Groups of earlier epochs: they may still have unpersisted reservations to report (`shop.app.heartbeat`).
        self.replaced: list[GroupCommit] = []
        self._signer = signer
        self._on_sale: dict[int, OnSale] = {}

    def find(self, sale_id: int) -> OnSale | None:
        """The sale, if this process sells it."""
        return self._on_sale.get(sale_id)

    def epoch_of(self, sale_id: int) -> int:
        """The epoch that this process sells in; 0 when it does not know the sale."""
        found = self._on_sale.get(sale_id)
        return found.group.sale.epoch if found else 0

    def adopt(self, group: GroupCommit) -> None:
        """Sell through this group from now on. A lower epoch than the known one is never adopted."""
        sale = group.sale
        if sale.epoch > self.epoch_of(sale.sale_id):
            if before := self._on_sale.get(sale.sale_id):
                self.replaced.append(before.group)
            self._on_sale[sale.sale_id] = OnSale(group, SoldOutAnswer(sale, self._signer))

    def leave(self, group: GroupCommit) -> None:
        """Sell no more through this group: its epoch is over, whatever the Redis that it reaches says."""
        found = self._on_sale.get(group.sale.sale_id)
        if found is not None and found.group is group:
            del self._on_sale[group.sale.sale_id]
            self.replaced.append(group)

    @property
    def groups(self) -> tuple[GroupCommit, ...]:
        """The ways to the ledgers that this process sells from."""
        return tuple(found.group for found in self._on_sale.values())
