"""The modes of a proxy, and which of them is in force."""

import asyncio
import random
from dataclasses import dataclass
from enum import Enum


class Way(Enum):
    """The two ways of a connection."""

    TO_SERVER = "to server"
    TO_CLIENT = "to client"


BOTH = frozenset(Way)


@dataclass(frozen=True)
class Pass:
    """Everything goes through."""


@dataclass(frozen=True)
class Delay:
    """Everything comes later, by `seconds` and up to `jitter_seconds` more; nothing overtakes anything."""

    seconds: float
    jitter_seconds: float = 0.0


@dataclass(frozen=True)
class Stall:
    """Nothing passes on these ways, connections stay, and their ends are not told either. `Pass` lets all go on."""

    ways: frozenset[Way] = BOTH


@dataclass(frozen=True)
class Trickle:
    """So many bytes a second pass on each way of each connection."""

    bytes_per_second: int


@dataclass(frozen=True)
class Refuse:
    """Nobody listens: new connections are refused, those that there are go on."""


@dataclass(frozen=True)
class Cut:
    """A connection is reset once so many bytes went this way, counted from now; the rest is lost.

    So it ends `times` connections, and then everything goes through; None means until another mode is set.
    """

    after_bytes: int
    way: Way
    times: int | None = 1


@dataclass(frozen=True)
class LoseRequest:
    """What a client sends, from the chunk in which the marker ends, never arrives, and its connection stays silent.

    So it silences `times` connections, as `Cut` does.
    """

    marker: bytes = b""
    times: int | None = 1


@dataclass(frozen=True)
class LoseReply:
    """What has the marker is delivered and done, and nothing is answered on its connection any more.

    With `reset` the client's connection is reset when the reply comes, otherwise it stays silent; `times` is as for
    `Cut`.
    """

    marker: bytes = b""
    reset: bool = False
    times: int | None = 1


Mode = Pass | Delay | Stall | Trickle | Refuse | Cut | LoseRequest | LoseReply


class Network:
    """What is in force now, for all connections of one proxy."""

    def __init__(self, *, seed: int) -> None:
        self.mode: Mode = Pass()
        self.injected = 0
        self._jitter = random.Random(seed)  # noqa: S311 - no secret
        self._injections_left: int | None = None
        self._changed = asyncio.Event()

    def switch(self, mode: Mode) -> None:
        """From now on, this is in force."""
        self.mode = mode
        self._injections_left = mode.times if isinstance(mode, Cut | LoseRequest | LoseReply) else None
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def passable(self, way: Way) -> Mode:
        """Wait while this way is stalled; returns what is in force then."""
        while isinstance(self.mode, Stall) and way in self.mode.ways:
            await self._changed.wait()
        return self.mode

    def delay_seconds(self, mode: Delay) -> float:
        """How long the next chunk takes."""
        return mode.seconds + mode.jitter_seconds * self._jitter.random()

    def count_injection(self) -> None:
        """The fault of the mode was injected into a connection; after the last one everything goes through."""
        self.injected += 1
        if self._injections_left is not None:
            self._injections_left -= 1
            if self._injections_left <= 0:
                self.switch(Pass())
