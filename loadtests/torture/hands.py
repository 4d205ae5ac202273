"""What every fault works with: the shop, its crowd, its market, and the one way to kill."""

import asyncio
import signal
from dataclasses import dataclass

from loadtests.torture.crowd import Crowd
from loadtests.torture.ground import Ground, send
from loadtests.torture.market import Market, OnSale
from loadtests.torture.plan import Draw, Wound

IN_FLIGHT_SECONDS_MAX = 5.0
LOOK_SECONDS = 0.005


class Broken(Exception):
    """A promise was seen broken while a fault was on; `invariant` says which."""

    def __init__(self, invariant: str, sentence: str) -> None:
        super().__init__(sentence)
        self.invariant = invariant


@dataclass
class Torture:
    """What the faults work with."""

    ground: Ground
    crowd: Crowd
    market: Market

    async def until_in_flight(self) -> None:
        """Wait for a purchase to be in flight, but not for ever: under some faults nobody gets as far."""
        for _ in range(int(IN_FLIGHT_SECONDS_MAX / LOOK_SECONDS)):
            if self.crowd.in_flight:
                return
            await asyncio.sleep(LOOK_SECONDS)

    async def kill(self, pids: list[int], words: str) -> Wound:
        """Kill -9 these processes at one moment."""
        await self.until_in_flight()
        in_flight = self.crowd.in_flight
        send(pids, signal.SIGKILL)
        return Wound(int(bool(in_flight and pids)), f"{words}, {in_flight} in flight")

    def sale(self, draw: Draw) -> OnSale:
        """One of the sales that are open."""
        selling = self.market.selling
        return selling[draw.randrange(0, len(selling))]
