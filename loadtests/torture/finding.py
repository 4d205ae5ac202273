"""What the checks of a run have found so far."""

from dataclasses import dataclass, field

from loadtests.judge.invariants import SENTENCES

SHOWN_MAX = 5
# Nobody pays here.
INVARIANTS = tuple(name for name in SENTENCES if name != "I11")


@dataclass
class Finding:
    """What the checks have found so far: counts of what must not be, and sentences about it.

    A heal that came late breaks I12 too, and the run goes on: the shop may be well again. `late` has those sentences.
    """

    lost: int = 0
    oversold: int = 0
    over_limit: int = 0
    duplicated: int = 0
    ghosts: int = 0
    honoured_by_receipt: int = 0
    checks: int = 0
    broken: set[str] = field(default_factory=set)
    sentences: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)

    def breaks(self, invariant: str, sentence: str) -> None:
        """An invariant does not hold."""
        self.broken.add(invariant)
        self.sentences.append(f"{invariant}: {sentence}")

    def tell(self, invariant: str, number: int, sentence: str) -> None:
        """An invariant is broken once more: the first few in words, and of the rest only the number."""
        self.broken.add(invariant)
        if number <= SHOWN_MAX:
            self.sentences.append(f"{invariant}: {sentence}")

    @property
    def clean(self) -> bool:
        """Whether the run can go on: nothing is broken but the time to heal."""
        return not self.broken and not self.sentences

    @property
    def violations(self) -> list[str]:
        return [*(f"I12: {sentence}" for sentence in self.late), *self.sentences]

    @property
    def invariants(self) -> dict[str, bool]:
        broken = self.broken | ({"I12"} if self.late else set())
        return {name: name not in broken for name in INVARIANTS}
