"""Each step is predicted by `tests.invariants.model` and done by `tests.invariants.world`; then they are compared."""

import asyncio
import copy
from collections.abc import Awaitable
from typing import ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shop.ledger.order_ids import keyed_order_id
from shop.orders.batch import PoisonedBatch
from shop.redis import ScriptsNotLoaded, load_scripts
from shop.sales.loading import LedgerLost
from shop.seckill.group_commit import GroupCommit
from tests.invariants.ledger_model import ENDED, SETTLED, Ledger, Wish
from tests.invariants.model import Model, Survived
from tests.invariants.postgres_model import Postgres
from tests.invariants.world import BACKLOG_MAX, BATCH_SMALL, STOCK, World

STEPS_PER_SALE = 80
EVERYTHING = 1_000
USERS, KEYS, QUANTITIES = 4, 3, 3
HOURS = 10
CALM_STEPS = 40  # between two recoveries, each of which costs as much as thirty other steps
UNCHANGED_STEPS = 2  # between two steps that use Postgres, each of which costs as much as five others
KINDS = ("units", "units", "window", "pause", "resume", "close", "restore")
LOSSES = ("nothing", "everything", "sale", "orders", "buyers", "stream", "winners", "rolled back", "over-trimmed")
PHASES = (Phase.generate, Phase.shrink)
NEXT = {"paid": "reserved", "cancelled": "reserved", "expired": "reserved", "refunded": "paid"}

wishes = st.lists(st.integers(0, USERS * KEYS * QUANTITIES - 1), min_size=1, max_size=4)
processes = st.integers(0, 1)
formats = st.integers(1, 2)
Value = TypeVar("Value")


class SaleMachine(RuleBasedStateMachine):
    """One sale from its first unit to its settlement, with everything that may happen between."""

    world: ClassVar[World]
    loop: ClassVar[asyncio.AbstractEventLoop]
    steps: ClassVar[int] = 0
    model: Model
    copied: Ledger | None = None
    calm = 0
    unchanged = 0
    touched = True

    def do(self, work: Awaitable[Value]) -> Value:
        """Run it to its end."""
        return self.loop.run_until_complete(work)

    @initialize(
        units=st.integers(1, 12), units_per_user=st.integers(1, 4), orders_per_user=st.integers(1, 4), form=formats
    )
    def begin(self, units: int, units_per_user: int, orders_per_user: int, form: int) -> None:
        limits = {"units_per_user": units_per_user, "orders_per_user": orders_per_user}
        self.do(self.world.begin(units=units, **limits, ledger_format=form))
        ledger = Ledger(1, units_per_user, orders_per_user, BACKLOG_MAX, form, units, 0, HOURS)
        postgres = Postgres(units, STOCK - units, 0, HOURS, units, openings={1: units})
        self.model, self.copied, self.calm, self.touched = Model(ledger, postgres), None, 0, True

    @property
    def alive(self) -> bool:
        return self.model.postgres.status != SETTLED

    @property
    def may_use_postgres(self) -> bool:
        return self.unchanged >= UNCHANGED_STEPS

    def wish(self, number: int) -> Wish:
        """What a number asks for: one of a few users, with one of a few keys."""
        user, key, quantity = f"user{number % USERS}", number // USERS % KEYS, number // USERS // KEYS + 1
        sale = self.world.sale
        return keyed_order_id(sale.id, sale.salt, user, str(key)), user, quantity

    def expected(self, group: GroupCommit, asked: list[Wish]) -> list[str]:
        if group.sale.epoch != self.model.ledger.epoch:
            return ["NOT_LOADED"] * len(asked)
        last = group._last
        return self.model.ledger.reserve(asked, (last.order_id, last.seq) if last.seq else None)

    @rule(process=processes, numbers=wishes)
    def reserve(self, process: int, numbers: list[int]) -> None:
        group, asked = self.world.groups[process], [self.wish(number) for number in numbers]
        expected = self.expected(group, asked)
        assert self.do(self.world.reserve(group, asked)) == expected

    @rule(process=processes, number=st.integers(0, USERS * KEYS * QUANTITIES - 1))
    def reserve_one(self, process: int, number: int) -> None:
        self.reserve(process, [number])

    @precondition(lambda self: self.model.ledger.orders)
    @rule(process=processes, which=st.integers(0, 20), more=st.booleans())
    def ask_again(self, process: int, which: int, more: bool) -> None:
        """The same request once more, or the same key with another quantity."""
        orders = sorted(self.model.ledger.orders.items(), key=lambda each: each[1].seq)
        order_id, had = orders[which % len(orders)]
        group, asked = self.world.groups[process], [(order_id, had.user, had.quantity + more)] * 2
        expected = self.expected(group, asked)
        assert self.do(self.world.reserve(group, asked)) == expected

    @precondition(lambda self: self.world.groups[0].sale.epoch == self.model.ledger.epoch)
    @rule(number=st.integers(0, USERS * KEYS * QUANTITIES - 1))
    def reserve_too_late(self, number: int) -> None:
        assert self.do(self.world.reserve_late([self.wish(number)])) == ["LATE"]

    @precondition(lambda self: self.model.postgres.orders)
    @rule(
        which=st.integers(0, 20), to=st.sampled_from(["cancelled", "expired", "paid", "refunded"]), back=st.booleans()
    )
    def move(self, which: int, to: str, back: bool) -> None:
        """Whoever comes second finds the order elsewhere."""
        rows = self.model.postgres.orders
        order_id = sorted(rows)[which % len(rows)]
        row = rows[order_id]
        may = row.status == NEXT[to]
        if may:
            row.status, row.closed = to, to in ("cancelled", "expired") or (to == "refunded" and back)
        assert self.do(self.world.move(order_id, to, restocks=back)) == may
        self.touched = True

    @precondition(lambda self: any(row.closed for row in self.model.postgres.orders.values()))
    @rule(which=st.lists(st.integers(0, 20), min_size=1, max_size=3), wrong=st.booleans())
    def release(self, which: list[int], wrong: bool) -> None:
        """Once, again, twice in a batch, or by a number that is another's."""
        closed = sorted(order_id for order_id, row in self.model.postgres.orders.items() if row.closed)
        chosen = [closed[number % len(closed)] for number in which]
        pairs = [(order_id, self.model.postgres.orders[order_id].seq) for order_id in chosen]
        if wrong:
            pairs[0] = pairs[0][0], pairs[0][1] + 1
        if self.model.postgres.status == SETTLED:
            return
        expected = self.model.ledger.release(pairs)
        if "SETTLED" in expected:
            expected = ["SETTLED"] * len(pairs)
        assert self.do(self.world.release(pairs)) == expected

    @precondition(lambda self: self.may_use_postgres)
    @rule(kind=st.sampled_from(KINDS), first=st.integers(-4, 6), second=st.integers(1, HOURS), now=st.booleans())
    def change(self, kind: str, first: int, second: int, now: bool) -> None:
        """An admin asks, and it is applied at once or later."""
        postgres = self.model.postgres
        may = postgres.status == "scheduled" and not (kind == "units" and first == 0)
        if kind == "window":
            first = max(first, 0) % second
        elif kind == "restore":
            pending = any(change.kind == kind for change in postgres.open_changes)
            may = postgres.held_back > 0 and not pending
        if may:
            postgres.number(kind, first, second)
        assert self.do(self.world.number(kind, first, second)) == may
        self.touched = True
        if now:
            self.apply_changes()

    @precondition(lambda self: self.may_use_postgres)
    @rule()
    def control(self) -> None:
        """What the controller asks for by itself, and what is under way."""
        postgres, ledger = self.model.postgres, self.model.ledger
        unfinished = any(
            row.status == "reserved" or (row.closed and not row.released) for row in postgres.orders.values()
        )
        drained = postgres.status == ENDED and ledger.seq == postgres.watermark and not postgres.held_back
        kind = None
        if ledger.state in ("open", "paused") and ledger.now >= ledger.ends:
            kind = "end"
        elif drained and not unfinished:
            kind = "settle"
        if kind is not None:
            status = "scheduled" if kind == "end" else ENDED
            pending = any(change.kind == kind for change in postgres.open_changes)
            if may := postgres.status == status and not pending:
                postgres.number(kind)
            assert self.do(self.world.number(kind, 0, 0)) == may
            self.touched = True
        self.apply_changes()

    @precondition(lambda self: self.may_use_postgres and self.model.postgres.open_changes)
    @rule()
    def apply_later(self) -> None:
        self.apply_changes()

    def apply_changes(self) -> None:
        """Every open change, in order; each once."""
        self.unchanged = 0
        expected = {}
        for change in self.model.postgres.open_changes:
            word, *fields = self.model.ledger.change(change).split()
            if word in ("APPLIED", "REFUSED"):
                expected[change.n] = "applied" if word == "APPLIED" else fields[1]
        assert self.do(self.world.apply_changes()) == expected

    @rule(ahead=st.integers(-2, 3).filter(lambda ahead: ahead != 1))
    def send_a_change_out_of_order(self, ahead: int) -> None:
        applied = self.model.ledger.applied
        expected = "ALREADY" if ahead < 1 else f"GAP {applied}"
        assert self.do(self.world.send_change(applied + ahead)) == expected

    @rule(hour=st.integers(-1, HOURS + 2))
    def set_clock(self, hour: int) -> None:
        """Time passes, or a clock goes back."""
        self.model.ledger.skew = hour
        self.do(self.world.set_clock(hour))

    @precondition(lambda self: self.may_use_postgres and self.model.undrained())
    @rule(which=processes)
    def drain(self, which: int) -> None:
        self.do(self.world.drain(which))
        self.model.drain(EVERYTHING if which else BATCH_SMALL)
        self.model.trim()
        self.touched = True

    @precondition(lambda self: self.may_use_postgres and self.model.undrained())
    @rule(which=processes, late=st.booleans())
    def drain_and_crash(self, which: int, late: bool) -> None:
        """Before the commit nothing has happened; after it all has, but for the trim."""
        self.do(self.world.drain(which, crashes="after the commit" if late else "before the commit"))
        if late:
            self.model.drain(EVERYTHING if which else BATCH_SMALL)
        self.touched = True

    @precondition(lambda self: self.may_use_postgres and self.model.undrained())
    @rule()
    def drain_twice(self) -> None:
        """The same events are delivered to two persisters."""
        self.do(self.world.drain_twice())
        self.model.drain(BATCH_SMALL)
        self.model.trim()
        self.model.drain(EVERYTHING)
        self.touched = True

    @precondition(lambda self: self.alive and self.may_use_postgres)
    @rule(process=processes)
    def restart(self, process: int) -> None:
        """A process loses its memory, and asks Postgres for the last order."""
        self.world.groups[process] = self.do(self.world.process())
        self.unchanged = 0

    @rule()
    def heartbeat(self) -> None:
        """The processes learn what is recorded."""
        for group in self.world.groups:
            if group.sale.epoch == self.model.postgres.epoch:
                group.forget(self.model.postgres.watermark)
                held = {request.order_id for request, _ in group.unpersisted}
                assert all(answer.seq > 0 for _, answer in group.unpersisted), held

    @rule(number=st.integers(0, USERS * KEYS * QUANTITIES - 1))
    def flush_scripts(self, number: int) -> None:
        """Nobody sells until they are loaded."""
        self.do(self.world.redis.script_flush())
        with pytest.raises(ScriptsNotLoaded):
            self.do(self.world.reserve(self.world.groups[0], [self.wish(number)]))
        self.do(load_scripts(self.world.redis))

    @precondition(lambda self: self.alive)
    @rule()
    def keep_copy(self) -> None:
        self.copied = copy.deepcopy(self.model.ledger)
        self.do(self.world.keep_copy())

    @precondition(lambda self: self.alive and self.calm >= CALM_STEPS)
    @rule(loss=st.sampled_from(LOSSES), alive=st.tuples(st.booleans(), st.booleans()), learns=st.booleans())
    def lose_and_recover(self, loss: str, alive: tuple[bool, bool], learns: bool) -> None:
        """The loss is noticed, nobody sells meanwhile, and the recovery ends where the model does."""
        if loss == "rolled back" and self.copied is None:
            loss = "nothing"
        survived = self._survived(loss)
        self._notice(loss, survived)
        groups = [group for group, lives in zip(self.world.groups, alive, strict=True) if lives]
        highest = 0
        for group in groups:
            for request, answer in group.unpersisted:
                self.model.claim(group.sale.epoch, request.order_id, answer.seq, request.user_id, request.quantity)
            if group.sale.epoch == self.model.postgres.epoch:
                highest = max(highest, group.highest_seq)
        self.do(self.world.recover(groups))
        renewed = self.model.recover(survived, highest_seen=highest)
        if renewed:
            self.do(self.world.set_clock(self.model.ledger.skew))
        elif survived.sale is not None:
            self.model.ledger = survived.sale
        for process, lives in enumerate(alive):
            if not lives or (renewed and (learns or not process)):
                self.world.groups[process] = self.do(self.world.process())
        self.copied, self.calm, self.touched = None, 0, True

    def _survived(self, loss: str) -> Survived:
        """Lose it, for the model and for real."""
        world, ledger = self.world, self.model.ledger
        if loss == "rolled back" and self.copied is not None:
            ledger = copy.deepcopy(self.copied)
            ledger.skew = self.copied.skew
            self.do(world.put_copy_back())
        survived = Survived(list(ledger.stream), dict(ledger.orders), dict(ledger.buyers), ledger)
        if loss == "over-trimmed":
            cut = self.model.postgres.watermark + 1 + (not self.model.postgres.watermark)
            survived.stream = [event for event in ledger.stream if event.entry >= cut]
            self.do(world.over_trim(cut))
        lost = ("sale", "orders", "buyers", "stream", "winners") if loss == "everything" else (loss,)
        for part in lost:
            if part in ("sale", "orders", "buyers", "stream", "winners"):
                self.do(world.lose(part))
        survived.sale = None if "sale" in lost else survived.sale
        survived.orders = {} if "orders" in lost else survived.orders
        survived.buyers = {} if "buyers" in lost else survived.buyers
        survived.stream = [] if "stream" in lost else survived.stream
        survived.winners = "winners" not in lost
        return survived

    def _notice(self, loss: str, survived: Survived) -> None:
        """Who asks a ledger that lost something is not served."""
        asked = [self.wish(0)]
        for group in self.world.groups:
            if group.sale.epoch != self.model.ledger.epoch:
                continue
            last = group._last
            entry = survived.orders.get(last.order_id)
            if survived.sale is None:
                assert self.do(self.world.reserve(group, asked)) == ["NOT_LOADED"]
            elif last.seq and (entry is None or entry.seq != last.seq):
                assert self.do(self.world.reserve(group, asked)) == ["BEHIND"]
        watermark = self.model.postgres.watermark
        kept = not watermark or watermark in {event.seq for event in survived.stream}
        first = survived.stream[0].seq if survived.stream else 0
        if not kept or (not watermark and first > 1):
            with pytest.raises((LedgerLost, PoisonedBatch)):
                self.do(self.world.drain(1))

    @precondition(lambda self: not self.alive)
    @rule(units=st.integers(1, 12), units_per_user=st.integers(1, 4), orders_per_user=st.integers(1, 4), form=formats)
    def begin_another(self, units: int, units_per_user: int, orders_per_user: int, form: int) -> None:
        """The sale is settled: all its units are somewhere."""
        postgres = self.model.postgres
        assert postgres.units == postgres.units_taken
        self.begin(units, units_per_user, orders_per_user, form)

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        if not hasattr(self, "model"):
            return
        SaleMachine.steps += 1
        self.calm += 1
        self.unchanged = 0 if self.touched else self.unchanged + 1
        self.model.check()
        now, ledger = self.do(self.world.ledger_now()), self.model.ledger
        assert {name: int(now.fields[name]) for name in ("seq", "available", "held_back", "applied")} == {
            "seq": ledger.seq, "available": ledger.available, "held_back": ledger.held_back, "applied": ledger.applied
        }  # fmt: skip
        assert (now.fields["epoch"], now.fields["state"]) == (str(ledger.epoch), ledger.state)
        assert now.fields["format"] == str(self.world.ledger_format)
        assert now.orders == ledger.orders
        assert now.buyers == ledger.buyers
        assert now.stream == ledger.stream
        if self.touched:
            self._rows_are_as_the_model_says()
            self.touched = False

    def _rows_are_as_the_model_says(self) -> None:
        rows, postgres = self.do(self.world.postgres_now()), self.model.postgres
        assert rows.sale == (
            postgres.units, postgres.stock, postgres.units_taken, postgres.held_back, postgres.watermark,
            postgres.watermark_balance, postgres.status, postgres.paused, postgres.epoch,
        )  # fmt: skip
        assert rows.orders == postgres.orders
        events = {place: (event.kind, event.delta, event.balance) for place, event in postgres.ledger.items()}
        assert rows.ledger == events
        assert rows.outcomes == [change.outcome for change in postgres.changes]


def play(world: World, loop: asyncio.AbstractEventLoop, *, sales: int, seed: int | None = None) -> int:
    """Play so many sales; returns how many steps that were. Without a seed always the same ones."""
    SaleMachine.world, SaleMachine.loop, SaleMachine.steps = world, loop, 0
    SaleMachine._hypothesis_internal_use_seed = seed
    run_state_machine_as_test(
        SaleMachine,
        settings=settings(
            max_examples=sales,
            stateful_step_count=STEPS_PER_SALE,
            deadline=None,
            database=None,
            derandomize=seed is None,
            phases=PHASES,
            suppress_health_check=list(HealthCheck),
        ),
    )
    return SaleMachine.steps
