"""`python -m tests.mutants`: break the shop in many small ways, each in a copy, and see that a test notices."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.mutants.all_mutants import MUTANTS
from tests.mutants.mutant import Mutant, Stale, require_fitting
from tests.mutants.verdicts import Judged, Verdict, judge_all
from tests.source_tree import ROOT

NOT_ALL_KILLED = 1
JOBS = 2

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog='Example: make mutants ARGS="no_deadline no_behind"')
def main(
    names: Annotated[list[str] | None, typer.Argument(help="These mutants alone.")] = None,
    list_only: Annotated[bool, typer.Option("--list", help="Show the mutants and whether they fit; run none.")] = False,
    jobs: Annotated[int, typer.Option(help="Mutants that are tried at the same time.", min=1, max=64)] = JOBS,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON value.")] = False,
    thorough: Annotated[bool, typer.Option("--thorough", help="Let survivors meet the whole suite.")] = False,
) -> None:
    """Break the shop on purpose, one promise at a time, and run the tests that must notice.

    Ends with 1 if a mutant survives, does not fit the code any more, or could not be judged.
    """
    chosen = _chosen(names or [])
    if list_only:
        raise typer.Exit(_show(chosen, as_json=as_json))
    progress = Console(stderr=True)
    found: list[Judged] = []
    for judged in judge_all(chosen, ROOT, jobs=jobs, thorough=thorough, say=progress.print):
        found.append(judged)
        said = f"{judged.mutant}: {judged.verdict} {judged.test or judged.detail}"
        progress.print(f"{len(found)}/{len(chosen)} {said}", markup=False, soft_wrap=True)
    order = {mutant.name: place for place, mutant in enumerate(chosen)}
    found.sort(key=lambda judged: order[judged.mutant])
    if as_json:
        typer.echo(msgspec.json.encode(found))
    else:
        _print(found)
    raise typer.Exit(0 if all(judged.verdict is Verdict.KILLED for judged in found) else NOT_ALL_KILLED)


def _chosen(names: Sequence[str]) -> list[Mutant]:
    unknown = set(names) - {mutant.name for mutant in MUTANTS}
    if unknown:
        raise typer.BadParameter(f"no mutant is called {', '.join(sorted(unknown))}; see --list")
    return [mutant for mutant in MUTANTS if not names or mutant.name in names]


def _show(mutants: Sequence[Mutant], *, as_json: bool) -> int:
    stale = {mutant.name: reason for mutant in mutants if (reason := _staleness(mutant))}
    if as_json:
        typer.echo(
            msgspec.json.encode([{**msgspec.to_builtins(each), "stale": stale.get(each.name)} for each in mutants])
        )
        return NOT_ALL_KILLED if stale else 0
    table = Table("mutant", "what it breaks", "fits", title=f"{len(mutants)} mutants")
    for mutant in mutants:
        table.add_row(mutant.name, mutant.why, stale.get(mutant.name, "yes"))
    Console().print(table)
    return NOT_ALL_KILLED if stale else 0


def _staleness(mutant: Mutant) -> str | None:
    try:
        require_fitting(mutant, ROOT)
    except Stale as stale:
        return str(stale)
    return None


def _print(found: Sequence[Judged]) -> None:
    killed = sum(judged.verdict is Verdict.KILLED for judged in found)
    table = Table("mutant", "verdict", "by", "s", title=f"{killed} of {len(found)} mutants killed")
    for judged in found:
        table.add_row(judged.mutant, judged.verdict, escape(judged.test or judged.detail), f"{judged.seconds:.1f}")
    Console().print(table)


if __name__ == "__main__":
    app()
