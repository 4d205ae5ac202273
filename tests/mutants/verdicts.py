"""Whether the tests notice a mutant. Only a test that failed, and was green without it, has noticed anything."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests.mutants.copies import compiled_copy_of_tree, copy_of_tree
from tests.mutants.mutant import Mutant, Stale, break_tree, named_tests, require_fitting
from tests.mutants.running import ALL_GREEN, SOME_RED, Outcome, Ran, belongs, run_tests

RUN_SECONDS_MAX = 600.0
SUITE_SECONDS_MAX = 1_800.0
WHOLE_SUITE = "tests"
# The runner's own tests would only run it again; these look at the tree, and not at what the shop does.
NOT_OF_THE_SHOP = ("--ignore=tests/mutants",)


class Verdict(StrEnum):
    """`KILLED` is good; every other word is a fault of the tests, of the mutant, or of the run."""

    KILLED = "killed"
    SURVIVED = "survived"
    STALE = "stale"
    BASELINE = "baseline red"
    TIMEOUT = "timeout"
    ERROR = "error"


@dataclass(frozen=True)
class Judged:
    """What became of a mutant: the test that killed it, or why there is none."""

    mutant: str
    verdict: Verdict
    test: str | None
    detail: str
    seconds: float


class Baseline:
    """The tests on the unbroken copy `root`; each selection is run once."""

    def __init__(self, root: Path, pool: ThreadPoolExecutor, *, jobs: int) -> None:
        self._root = root
        self._pool = pool
        self._jobs = jobs
        self._outcomes: dict[str, Outcome] = {}
        self._tails: dict[str, str] = {}

    def run(self, selections: Iterable[str], *options: str, seconds_max: float = RUN_SECONDS_MAX) -> None:
        """Run what these select. A file that is named as a whole is not run again for its ids."""
        named = frozenset(selections)
        needed = sorted(each for each in named if not any(belongs(each, other) for other in named - {each}))
        shards = [shard for start in range(self._jobs) if (shard := needed[start :: self._jobs])]

        def run_shard(some: Sequence[str]) -> tuple[Sequence[str], Ran]:
            return some, run_tests(self._root, some, *options, seconds_max=seconds_max * len(some))

        for some, ran in self._pool.map(run_shard, shards):
            self._outcomes |= ran.outcomes
            self._tails |= dict.fromkeys(some, ran.tail)

    def red(self, selections: Iterable[str]) -> list[str]:
        """The tests among these that are not green without any mutant."""
        return [test for test, outcome in self._of(selections).items() if outcome is not Outcome.PASSED]

    def reason_against(self, selections: Sequence[str]) -> str | None:
        """Why these tests prove nothing, or None if they do."""
        for selection in selections:
            outcomes = self._of([selection])
            if red := [test for test, outcome in outcomes.items() if outcome not in (Outcome.PASSED, Outcome.SKIPPED)]:
                return f"{red[0]} is red without any mutant"
            if Outcome.PASSED not in outcomes.values():
                return f"{selection} has no test that is green: {self._tails.get(selection, 'it was not run')}"
        return None

    def _of(self, selections: Iterable[str]) -> Mapping[str, Outcome]:
        wanted = tuple(selections)
        return {
            test: had for test, had in self._outcomes.items() if any(belongs(test, selection) for selection in wanted)
        }


def judge_all(
    mutants: Sequence[Mutant], root: Path, *, jobs: int, thorough: bool, say: Callable[[str], None]
) -> Iterator[Judged]:
    """The verdict on each mutant, as it comes. With `thorough`, a survivor meets the whole suite before the last word.

    The tree `root` is only read: everything happens in copies of it.
    """
    fitting = []
    for mutant in mutants:
        try:
            require_fitting(mutant, root)
            fitting.append(mutant)
        except Stale as stale:
            yield Judged(mutant.name, Verdict.STALE, None, str(stale), 0.0)
    if not fitting:
        return
    # One pool for all: each of its threads keeps an interpreter.
    with compiled_copy_of_tree(root) as unbroken, ThreadPoolExecutor(jobs) as pool:
        baseline = Baseline(unbroken, pool, jobs=jobs)
        say(f"the tests of {len(fitting)} mutants, without any")
        baseline.run(named_tests(fitting))
        survivors = []
        begun = {pool.submit(_judge, mutant, unbroken, baseline): mutant for mutant in fitting}
        for future in as_completed(begun):
            judged = future.result()
            if thorough and judged.verdict is Verdict.SURVIVED:
                survivors.append(begun[future])
            else:
                yield judged
        if survivors:
            say(f"the whole suite for {len(survivors)} survivors, and once without any")
            options = ["-n", str(jobs), "--dist", "loadfile", *NOT_OF_THE_SHOP]
            baseline.run([WHOLE_SUITE], *options, seconds_max=SUITE_SECONDS_MAX)
            options += [f"--deselect={test}" for test in baseline.red([WHOLE_SUITE])]
            for mutant in survivors:
                yield pool.submit(_judge_by_the_suite, mutant, unbroken, options).result()


def _judge(mutant: Mutant, root: Path, baseline: Baseline) -> Judged:
    reason = baseline.reason_against(mutant.tests)
    if reason is not None:
        return Judged(mutant.name, Verdict.BASELINE, None, reason, 0.0)
    began = time.monotonic()
    with copy_of_tree(root) as copy:
        break_tree(mutant, copy)
        ran = run_tests(copy, mutant.tests, "--maxfail=1", seconds_max=RUN_SECONDS_MAX)
    return _judged(mutant, ran, began)


def _judge_by_the_suite(mutant: Mutant, root: Path, options: Sequence[str]) -> Judged:
    began = time.monotonic()
    with copy_of_tree(root) as copy:
        break_tree(mutant, copy)
        ran = run_tests(copy, [WHOLE_SUITE], *options, "--maxfail=1", seconds_max=SUITE_SECONDS_MAX)
    return _judged(mutant, ran, began)


def _judged(mutant: Mutant, ran: Ran, began: float) -> Judged:
    seconds = time.monotonic() - began
    failed = ran.first(Outcome.FAILED)
    if ran.status == SOME_RED and failed is not None:
        return Judged(mutant.name, Verdict.KILLED, failed, "", seconds)
    if ran.status == ALL_GREEN:
        return Judged(mutant.name, Verdict.SURVIVED, None, "every test stays green", seconds)
    timed_out = ran.first(Outcome.TIMEOUT)
    if timed_out is not None or ran.status < 0:
        return Judged(mutant.name, Verdict.TIMEOUT, timed_out, ran.tail, seconds)
    return Judged(mutant.name, Verdict.ERROR, ran.first(Outcome.ERROR), ran.tail, seconds)
