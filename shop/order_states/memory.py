"""The bytes of states that were drawn, by order and version. They say nothing of what is current: Postgres does."""

from collections import OrderedDict

from shop.order_states.drawing import Drawn

# What an entry takes besides its body.
ENTRY_BYTES = 500


class StateMemory:
    """The states that were drawn last, the newest of each order, within a bound of bytes."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._drawn: OrderedDict[str, Drawn] = OrderedDict()
        self._bytes = 0

    @property
    def bytes(self) -> int:
        """What it takes."""
        return self._bytes

    def __contains__(self, order_id: str) -> bool:
        return order_id in self._drawn

    def find(self, order_id: str, version: int) -> Drawn | None:
        """The state, if this version of it was drawn."""
        drawn = self._drawn.get(order_id)
        return drawn if drawn is not None and drawn.version == version else None

    def keep(self, order_id: str, drawn: Drawn) -> None:
        """Have this one; the oldest go where there is no room."""
        if (before := self._drawn.pop(order_id, None)) is not None:
            self._bytes -= len(before.body) + ENTRY_BYTES
        self._drawn[order_id] = drawn
        self._bytes += len(drawn.body) + ENTRY_BYTES
        while self._bytes > self._bytes_max and self._drawn:
            _, gone = self._drawn.popitem(last=False)
            self._bytes -= len(gone.body) + ENTRY_BYTES
