"""The sold-out latch: after the last unit, "sold out" is answered from memory.

It closes only when the ledger has said that nothing is left, never because too little is left for one wish. While it is
closed the process polls the ledger, because a published message can be lost. Who has won is known by a bitmap that
`reserve.lua` keeps, so that a winner's retry still reaches its order; until the bitmap is here, the ledger is asked.
What the latch says is as old as its last poll: an order that another process took since is found by the next retry.
"""

import time
from typing import Any, NamedTuple

import redis.asyncio as aioredis

from shop.ledger.client import LoadedSale
from shop.ledger.keys import ledger_keys
from shop.ledger.order_ids import winner_bit
from shop.redis import REDIS_ERRORS

BITS_PER_UNIT = 16
BITS_MIN, BITS_MAX = 2**10, 2**27
WINNERS_INTERVAL_SECONDS = 1.0
PULSE_FIELDS = ("epoch", "state", "available", "seq", "ends_ms", "skew_ms", "winner_bits")


def winner_bits(units: int) -> int:
    """The size of a sale's bitmap: at most a sixteenth of the losers is taken for a winner and asks the ledger."""
    return min(max(1 << (units * BITS_PER_UNIT - 1).bit_length(), BITS_MIN), BITS_MAX)


class _Pulse(NamedTuple):
    available: int
    seq: int
    bits: int


class Latch:
    """What one process remembers of a sale that is sold out; `seq` is the ledger's when nothing was left."""

    def __init__(self, client: aioredis.Redis, sale: LoadedSale) -> None:
        self._client = client
        self._keys = ledger_keys(sale.sale_id, sale.epoch)
        self._epoch = str(sale.epoch).encode()
        self._winners: bytes | None = None
        self._bits = BITS_MIN
        self._winners_read_at = 0.0
        self._closings = 0
        self.closed = False
        self.seq = 0

    def close(self, seq: int) -> None:
        """Take note that the ledger has nothing left."""
        if not self.closed:
            self.closed, self.seq, self._winners = True, seq, None
            self._closings += 1

    def open(self) -> None:
        """Ask the ledger again, for everybody."""
        self.closed, self._winners = False, None

    def knows_sold_out(self, order_id: bytes) -> bool:
        """Whether "sold out" is true for this order without asking: nothing is left, and it has won nothing."""
        winners = self._winners
        if winners is None:
            return False
        byte, bit = divmod(winner_bit(order_id, self._bits), 8)
        return byte >= len(winners) or not winners[byte] & 0x80 >> bit

    async def poll(self) -> None:
        """Open when there are units or the sale is not open; forget the winners when an order may have come since."""
        if not self.closed:
            return
        closings = self._closings
        try:
            wants_winners = time.monotonic() - self._winners_read_at >= WINNERS_INTERVAL_SECONDS
            pulse, winners = await self._read(with_winners=self._winners is None and wants_winners)
        except (*REDIS_ERRORS, ValueError):
            self.open()  # The next purchase asks the ledger, and is told how that is.
            return
        if not self.closed or self._closings != closings:
            return  # It was opened meanwhile: the answer is older than that.
        if pulse is None or pulse.available > 0:
            self.open()
            return
        if pulse.seq != self.seq:
            self.seq, self._winners = pulse.seq, None
        if winners is not None:
            self._winners, self._bits = winners, pulse.bits

    async def _read(self, *, with_winners: bool) -> tuple[_Pulse | None, bytes | None]:
        """The ledger's pulse, None when it does not sell, and the bitmap of the same moment if it is wanted."""
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.hmget(self._keys.sale, list(PULSE_FIELDS))
            pipe.time()
            if with_winners:
                self._winners_read_at = time.monotonic()
                pipe.get(self._keys.winners)
                pipe.exists(self._keys.orders)
            values, (seconds, microseconds), *found = await pipe.execute()
        if not found:
            return self._pulse(values, seconds * 1000 + microseconds // 1000), None
        winners, has_orders = found
        if winners is None and has_orders:
            return None, None  # A part of the ledger is lost.
        return self._pulse(values, seconds * 1000 + microseconds // 1000), winners or b""

    def _pulse(self, values: list[Any], clock_ms: int) -> _Pulse | None:
        if None in values:
            return None
        epoch, state, available, seq, ends_ms, skew_ms, bits = values
        if epoch != self._epoch or state != b"open" or clock_ms + int(skew_ms) >= int(ends_ms):
            return None
        return _Pulse(int(available), int(seq), int(bits))
