"""What a mutant is, and how it is put into a copy of the shop. It fits exactly, or it is stale."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path


@dataclass(frozen=True)
class Edit:
    """One passage of a file, which stands there once, and what replaces it."""

    file: str
    before: str
    after: str = ""


@dataclass(frozen=True)
class Mutant:
    """A break of one promise. `tests` are files or ids of pytest, one of which must turn red."""

    name: str
    why: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]


class Stale(Exception):
    """The code that a mutant breaks is not there any more: the mutant must follow it, or go."""


def require_fitting(mutant: Mutant, root: Path) -> None:
    """Raise Stale unless each passage of this mutant stands exactly once in its file."""
    for edit in mutant.edits:
        file = root / edit.file
        found = file.read_text().count(edit.before) if file.is_file() else 0
        if found != 1:
            line = edit.before.strip().partition("\n")[0]
            raise Stale(f"{edit.file} has {found} times, not once: {line}")


def break_tree(mutant: Mutant, root: Path) -> None:
    """Put the mutant into this tree, which must be a copy. Raises Stale, and then nothing is changed."""
    require_fitting(mutant, root)
    for edit in mutant.edits:
        file = root / edit.file
        file.write_text(file.read_text().replace(edit.before, edit.after))
        if file.suffix == ".py":
            # What was compiled before counts as current if size and second of the source are the same.
            Path(cache_from_source(str(file))).unlink(missing_ok=True)


def named_tests(mutants: Iterable[Mutant]) -> frozenset[str]:
    """Every file and id that these mutants name."""
    return frozenset(test for mutant in mutants for test in mutant.tests)


def breaks(name: str, why: str, file: str, before: str, after: str, *tests: str) -> Mutant:
    """A mutant of one passage."""
    return Mutant(name, why, (Edit(file, before, after),), tests)
