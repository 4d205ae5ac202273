"""The context of every fault: the testbed, the crowd, the driver of the sales, and the one way to kill."""

import asyncio
import signal
from dataclasses import dataclass

from loadtests.torture.crowd import Crowd
from loadtests.torture.driver import Driver, OnSale
from loadtests.torture.plan import Draw, Injection
from loadtests.torture.testbed import Testbed, send

IN_FLIGHT_SECONDS_MAX = 5.0
POLL_SECONDS = 0.005


class Broken(Exception):
    """A promise was seen broken while a fault was on; `invariant` says which."""

    def __init__(self, invariant: str, sentence: str) -> None:
        super().__init__(sentence)
        self.invariant = invariant


@dataclass
class Context:
    """What the faults are injected into."""

    testbed: Testbed
    crowd: Crowd
    driver: Driver

    async def until_in_flight(self) -> None:
        """Wait for a purchase to be in flight, but not for ever: under some faults nobody gets as far."""
        for _ in range(int(IN_FLIGHT_SECONDS_MAX / POLL_SECONDS)):
            if self.crowd.in_flight:
                return
            await asyncio.sleep(POLL_SECONDS)

    async def kill(self, pids: list[int], words: str) -> Injection:
        """Kill -9 these processes at one moment."""
        await self.until_in_flight()
        in_flight = self.crowd.in_flight
        send(pids, signal.SIGKILL)
        return Injection(int(bool(in_flight and pids)), f"{words}, {in_flight} in flight")

    def sale(self, draw: Draw) -> OnSale:
        """One of the sales that are open."""
        selling = self.driver.selling
        return selling[draw.randrange(0, len(selling))]
