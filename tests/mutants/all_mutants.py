"""Every mutant, by the stage of a purchase that it breaks."""

from tests.mutants import (
    access,
    bench,
    closing,
    commands,
    hot_path,
    ledger,
    money,
    pages,
    polls,
    pool,
    recording,
    recovery,
    sale_life,
    streams,
)
from tests.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    *ledger.MUTANTS,
    *hot_path.MUTANTS,
    *recording.MUTANTS,
    *closing.MUTANTS,
    *money.MUTANTS,
    *sale_life.MUTANTS,
    *recovery.MUTANTS,
    *access.MUTANTS,
    *commands.MUTANTS,
    *pages.MUTANTS,
    *pool.MUTANTS,
    *polls.MUTANTS,
    *streams.MUTANTS,
    *bench.MUTANTS,
)
