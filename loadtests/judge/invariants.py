"""What must be true after a run, in one sentence each; docs/invariants.md has the whole of it by the same numbers."""

from typing import NamedTuple

SENTENCES = {
    "I1": "no gap in the ledger",
    "I2": "every balance follows from the last",
    "I3": "units are conserved",
    "I4": "no oversell, by the rows",
    "I5": "no buyer above the limit",
    "I6": "every promise has its row",
    "I7": "a retry finds its order for ever",
    "I8": "units went back once, and from closed orders",
    "I9": "no row without a promise",
    "I10": "nothing is sold while paused or over",
    "I11": "all money is somewhere, and only once",
    "I12": "everything is well within 15 s",
    "history": "every answer was true at its place in the ledger",
}


class Threshold(NamedTuple):
    """A condition of a good run, whether it holds, and the figures to show beside it."""

    name: str
    ok: bool
    shown: str


def threshold_of(invariant: str, *, holds: bool) -> Threshold:
    """An invariant as a condition of a good run."""
    return Threshold(f"{invariant} {SENTENCES[invariant]}", holds, "holds" if holds else "broken")
