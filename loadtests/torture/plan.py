"""Which faults come in which order: a function of the seed alone, so that a run can be had again."""

import random
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

PAIR_SHARE = 0.8


@dataclass
class Injection:
    """What injecting a fault has done: how many processes it killed with a purchase in flight, and a word about how."""

    kills: int = 0
    words: str = ""


class Draw(Protocol):
    """The chance that a fault may take: the same at the same point of the same plan."""

    def uniform(self, a: float, b: float) -> float: ...

    def randrange(self, start: int, stop: int) -> int: ...


@dataclass(frozen=True)
class Fault:
    """A way to break the shop.

    `touches` says what it breaks: two faults of one round touch different things. `weight` is how often it is in a
    round of the bag, `only` the policy of the append-only file that it is meant for.
    """

    name: str
    inject: Callable[..., Awaitable[Injection]]
    touches: frozenset[str]
    weight: int = 1
    only: str | None = None


@dataclass(frozen=True)
class Round:
    """The faults that come together, each with a chance of its own."""

    number: int
    faults: tuple[Fault, ...]
    draws: tuple[random.Random, ...] = field(compare=False, repr=False)

    @property
    def name(self) -> str:
        return " + ".join(fault.name for fault in self.faults)


def rounds(faults: Sequence[Fault], *, seed: int, aof: str, pairs: bool = True) -> Iterator[Round]:
    """Rounds for ever. Every kind comes once before any comes more often, and then as often as it weighs.

    Faults are dealt from a bag that is filled and shuffled anew when it is empty.
    """
    draw = random.Random(seed)  # noqa: S311 - it must be repeatable
    usable = [fault for fault in faults if fault.only in {None, aof}]
    bag = _shuffled(draw, usable)
    number = 0
    while True:
        if not bag:
            bag = _shuffled(draw, [fault for fault in usable for _ in range(fault.weight)])
        number += 1
        chosen = [bag.pop()]
        if pairs and draw.random() < PAIR_SHARE:
            second = next((fault for fault in reversed(bag) if not fault.touches & chosen[0].touches), None)
            if second is not None:
                bag.remove(second)
                chosen.append(second)
        yield Round(number, tuple(chosen), tuple(random.Random(f"{seed}.{number}.{i}") for i in range(len(chosen))))  # noqa: S311


def _shuffled(draw: random.Random, faults: Sequence[Fault]) -> list[Fault]:
    bag = list(faults)
    draw.shuffle(bag)
    return bag


def touches(*names: str) -> frozenset[str]:
    """What a fault breaks: faults that touch the same thing do not come at once."""
    return frozenset(names)


def counted(names: Mapping[str, int]) -> str:
    """`kill_worker 8, kill_valkey 4`: the commonest first."""
    ordered = sorted(names.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{name} {count}" for name, count in ordered)
