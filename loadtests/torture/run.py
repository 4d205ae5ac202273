"""The course of a run: let the crowd buy, break, heal, check, and again until the time is over."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from loadtests.torture.check import check_sale
from loadtests.torture.context import Broken, Context
from loadtests.torture.crowd import Crowd
from loadtests.torture.driver import Driver, OnSale
from loadtests.torture.faults import FAULTS
from loadtests.torture.finding import Finding
from loadtests.torture.healing import HEAL_SECONDS_BAR, HEAL_SECONDS_MAX, NotHealed, seconds_allowed, until_healed
from loadtests.torture.history import check_ledger
from loadtests.torture.plan import Fault, Injection, Round, rounds
from loadtests.torture.slowdown import Slowdown
from loadtests.torture.testbed import Wrecked, testbed
from shop.failure_isolation import SERVER_ERRORS
from shop.local import NotStarted

WARM_UP_SECONDS_MAX = 60.0
LULL_SECONDS = 0.5


@dataclass(frozen=True)
class TorturePlan:
    """How long, how hard, from which seed, and with which faults. It ends early after `rounds_max` rounds."""

    seed: int
    minutes: float
    aof: str = "always"
    buyers: int = 64
    faults: Sequence[Fault] = FAULTS
    pairs: bool = True
    rounds_max: int | None = None
    heal_seconds: float = HEAL_SECONDS_BAR

    def is_over(self, seconds: float, rounds: int) -> bool:
        """Whether a run that is so far along ends now."""
        return seconds >= self.minutes * 60 or (self.rounds_max is not None and rounds >= self.rounds_max)


@dataclass
class State:
    """The run so far, for the screen and for the table at the end."""

    plan: TorturePlan
    started_at: float = field(default_factory=time.monotonic)
    doing: str = "starting"
    rounds: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    longest_heal_seconds: float = 0.0
    longest_heal_of: str = ""
    finding: Finding = field(default_factory=Finding)
    slowdown: Slowdown = field(default_factory=Slowdown)
    seconds: float = 0.0
    crowd: Crowd | None = None
    driver: Driver | None = None

    @property
    def elapsed_seconds(self) -> float:
        return time.monotonic() - self.started_at

    @property
    def purchases(self) -> int:
        return self.crowd.purchases if self.crowd else 0

    @property
    def acknowledged(self) -> int:
        return self.crowd.acknowledged if self.crowd else 0


Report = Callable[[State, str], None]


async def torture(plan: TorturePlan, directory: Path, report: Report, *, stop: asyncio.Event) -> State:
    """Torture a shop in this directory until the time is over, something is broken, or `stop` is set.

    `report` is told of every step. What is left of a broken run stays in the directory. Raises ServerUnavailable or
    NotStarted when the shop cannot be started at all.
    """
    state = State(plan)
    async with (
        testbed(directory, aof=plan.aof, seed=plan.seed) as here,
        Driver(here, seed=plan.seed) as driver,
        Crowd(here.local.base_url, here.settings, driver, buyers=plan.buyers, seed=plan.seed) as crowd,
    ):
        state.crowd, state.driver = crowd, driver
        try:
            await _course(plan, Context(here, crowd, driver), state, report, stop)
        except (Broken, NotHealed) as broken:
            state.finding.breaks(broken.invariant if isinstance(broken, Broken) else "I12", str(broken))
        except (Wrecked, NotStarted, *SERVER_ERRORS) as wrecked:
            state.finding.sentences.append(f"the run could not go on in {state.doing}: {wrecked!r}")
        if state.finding.violations:
            for sale in driver.sales:
                write_evidence(directory / f"sale-{sale.id}.jsonl", sale)
    state.seconds = state.elapsed_seconds
    return state


async def _course(plan: TorturePlan, context: Context, state: State, report: Report, stop: asyncio.Event) -> None:
    here, crowd, driver = context.testbed, context.crowd, context.driver
    state.doing = "warming up"
    crowd.open.set()
    await until_healed(
        here, driver, crowd, state.slowdown, since=time.monotonic() + WARM_UP_SECONDS_MAX - HEAL_SECONDS_MAX
    )
    state.started_at = time.monotonic()
    report(state, f"torture of {plan.minutes:g} minutes begins")
    course: Iterator[Round] = rounds(plan.faults, seed=plan.seed, aof=plan.aof, pairs=plan.pairs)
    while not plan.is_over(state.elapsed_seconds, state.rounds) and not stop.is_set():
        await _lull(crowd)
        each = next(course)
        await _round(context, state, each, report)
        if not state.finding.clean:
            return
    state.doing = "last check"
    await _check(context, state, last=True)


async def _lull(crowd: Crowd) -> None:
    """Let the crowd buy for a moment: a fault is worth little when nobody is under way."""
    await asyncio.sleep(LULL_SECONDS)
    crowd.require_alive()


async def _round(context: Context, state: State, each: Round, report: Report) -> None:
    state.doing = each.name
    injections: list[Injection] = await asyncio.gather(
        *(fault.inject(context, draw) for fault, draw in zip(each.faults, each.draws, strict=True))
    )
    lifted_at = time.monotonic()
    state.rounds += 1
    state.faults.update(fault.name for fault in each.faults)
    state.kills += sum(injection.kills for injection in injections)
    state.doing = f"healing from {each.name}"
    healing = await _heal(context, state, each.name, since=lifted_at)
    state.doing = f"checking after {each.name}"
    await _check(context, state, last=False)
    words = "; ".join(
        f"{fault.name}: {injection.words}" for fault, injection in zip(each.faults, injections, strict=True)
    )
    report(state, f"{words}; {healing}")


async def _heal(context: Context, state: State, of: str, *, since: float) -> str:
    """Wait until all is well, and say how long that took; if it was too long, that is a finding and the run goes on."""
    state.slowdown.begin_round()
    not_healed = ""
    try:
        seconds = await until_healed(context.testbed, context.driver, context.crowd, state.slowdown, since=since)
    except NotHealed as error:
        seconds, not_healed = time.monotonic() - since, f", and still {error}"
    slowdown = state.slowdown.factor
    allowed = seconds_allowed(state.plan.heal_seconds, slowdown)
    if seconds > state.longest_heal_seconds:
        state.longest_heal_seconds, state.longest_heal_of = seconds, of
    words = f"{seconds:.1f} s of {allowed:.1f} s (slowdown {slowdown:.1f})"
    if not_healed or seconds > allowed:
        state.finding.late.append(f"healing from {of} took {words}{not_healed}")
    return f"healed in {words}{not_healed}"


async def _check(context: Context, state: State, *, last: bool) -> None:
    """Check every sale while nobody buys and nothing is changed, and forget those that are over."""
    async with context.driver.unchanging:
        if not await context.crowd.quiet():
            state.finding.breaks("I12", "buyers were not told what became of their purchases")
        for sale in list(context.driver.sales):
            over = await context.driver.is_over(sale)
            await check_sale(context.testbed, context.crowd, sale, state.finding)
            if over or last:
                await check_ledger(context.testbed, sale, state.finding)
            if over and state.finding.clean:
                context.driver.sales.remove(sale)
    context.crowd.open.set()


def write_evidence(path: Path, sale: OnSale) -> None:
    """Every attempt of a sale as a line of JSON: purchase, user, key, quantity, answers."""
    encoder = msgspec.json.Encoder()
    with path.open("wb") as file:
        for purchase in sale.purchases:
            file.write(encoder.encode(purchase) + b"\n")
