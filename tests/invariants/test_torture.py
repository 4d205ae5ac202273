"""The torture: a short run of the real thing, and its checks, each turned red by data that was tampered with."""

import asyncio
import itertools
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import msgspec
import pytest
from sqlalchemy import text

from loadtests.chaos import ChaosProxy
from loadtests.judge.ledger import released_wrongly, sold_while_closed
from loadtests.torture import healing
from loadtests.torture.check import check_sale
from loadtests.torture.context import Context
from loadtests.torture.crowd import Crowd
from loadtests.torture.driver import Driver, OnSale
from loadtests.torture.faults import FAULTS
from loadtests.torture.finding import Finding
from loadtests.torture.healing import HEAL_SECONDS_MAX, NotHealed, until_healed
from loadtests.torture.history import check_ledger
from loadtests.torture.plan import Fault, Injection, rounds, touches
from loadtests.torture.purchases import Purchase
from loadtests.torture.report import markdown, results_of, write_longest
from loadtests.torture.run import State, TorturePlan, _course, torture
from loadtests.torture.slowdown import Slowdown
from loadtests.torture.testbed import API, NOT_READY, Testbed, Wrecked
from shop.embedded import EmbeddedServers, PostgresServer, ValkeyServer
from shop.local import LocalShop
from shop.processes import START_FAILED
from shop.sales.models import LedgerRow, SaleChange
from tests.harness import Shop, wait_until

SEED = 20
SHORT = (
    "kill_api_process",
    "kill_valkey",
    "empty_redis",
    "lose_replies",
)
PURCHASES = 6
SLOW = 1e6  # the slowdown of a machine on which nothing is too late


@pytest.mark.timeout(300)
async def test_a_short_torture_breaks_no_promise(tmp_path: Path) -> None:
    """Four kinds of fault with purchases in flight, then every promise against every row (I1–I10, I12)."""
    faults = [fault for fault in FAULTS if fault.name in SHORT]
    plan = TorturePlan(
        SEED,
        minutes=4,
        buyers=24,
        faults=faults,
        pairs=False,
        rounds_max=len(faults),
        heal_seconds=HEAL_SECONDS_MAX,  # Other tests use the same machine; the bar is for the command.
    )
    lines: list[str] = []

    state = await torture(plan, tmp_path, lambda _, line: lines.append(line), stop=asyncio.Event())

    assert state.finding.violations == [], lines
    assert state.faults == dict.fromkeys(SHORT, 1)
    assert state.kills == sum(name.startswith("kill") for name in SHORT)
    assert state.acknowledged > 0


def test_the_same_seed_breaks_the_same_things_in_the_same_order() -> None:
    first, again, other = (
        [(each.name, [draw.random() for draw in each.draws]) for each in itertools.islice(course, 100)]
        for course in (rounds(FAULTS, seed=seed, aof="always") for seed in (1, 1, 2))
    )

    assert first == again
    assert first != other


def test_every_kind_comes_once_before_any_comes_again() -> None:
    usable = {fault.name for fault in FAULTS if fault.only is None}
    course = rounds(FAULTS, seed=SEED, aof="always")

    dealt = [fault.name for each in itertools.islice(course, len(usable)) for fault in each.faults]

    assert set(dealt[: len(usable)]) == usable
    assert len(usable) >= 14


def test_faults_that_come_together_break_different_things() -> None:
    pairs = [each.faults for each in itertools.islice(rounds(FAULTS, seed=SEED, aof="everysec"), 300)]

    assert any(len(pair) == 2 for pair in pairs)
    assert not [pair for pair in pairs if len(pair) == 2 and pair[0].touches & pair[1].touches]


def test_an_order_sold_while_the_sale_is_paused_or_over_is_found() -> None:
    """I10, by the ledger's own order; what a recovery brings back is no sale."""
    kinds = ["reserved", "pause", "reserved", "honoured", "resume", "reserved", "end", "reserved"]
    numbers = itertools.count(1)
    rows = [
        LedgerRow(epoch=1, seq=seq, kind=kind, change_n=next(numbers) if kind in {"pause", "resume", "end"} else None)
        for seq, kind in enumerate(kinds, 1)
    ]
    changes = {n: SaleChange(n=n, outcome="applied") for n in (1, 2, 3)}

    assert [sentence.split()[1] for sentence in sold_while_closed(rows, changes)] == ["3", "8"]


class Examined:
    """A sale of the running shop with a few purchases of each kind, as the torture records them."""

    def __init__(self, shop: Shop, testbed: Testbed, crowd: Crowd, sale: OnSale) -> None:
        self.shop, self.testbed, self.crowd, self.sale = shop, testbed, crowd, sale

    @property
    def promised(self) -> list[Purchase]:
        return [purchase for purchase in self.sale.purchases if purchase.promised]

    async def buy(self) -> None:
        """Orders, a cancelled one among them, and a refusal."""
        wishes = [self.crowd.new_purchase(self.sale) for _ in range(PURCHASES)]
        await asyncio.gather(*map(self.crowd.until_known, wishes))
        await self.crowd.cancel(wishes[-1])
        await self.crowd.until_known(self.crowd.new_purchase(self.sale, quantity=9))

    async def execute(self, statement: str, **values: object) -> None:
        """Tamper with the rows."""
        async with self.shop.database.transaction() as session:
            await session.execute(text(statement), values)

    async def check(self) -> Finding:
        """What the torture finds."""
        finding = Finding()
        await check_sale(self.testbed, self.crowd, self.sale, finding)
        await check_ledger(self.testbed, self.sale, finding)
        return finding


@pytest.fixture
async def testbed(shop: Shop, tmp_path: Path) -> AsyncIterator[Testbed]:
    """The testbed of the torture, around the running shop."""
    address = urlsplit(shop.base_url)
    settings = shop.settings.model_copy(update={"api_host": address.hostname, "api_port": address.port})
    here = Testbed(
        settings=settings,
        directory=tmp_path,
        aof="always",
        servers=EmbeddedServers(ValkeyServer(tmp_path), PostgresServer(tmp_path)),
        local=LocalShop(settings, tmp_path),
        database=shop.database,
        redis=shop.redis,
        network=ChaosProxy(settings.redis_url),
        wire=ChaosProxy(settings.database_url),
    )
    yield here
    for proxy in (here.network, here.wire):
        await proxy.close()
    for name in list(here.local.processes):
        here.local.stop(name)


@pytest.fixture
async def examined(shop: Shop, testbed: Testbed) -> AsyncIterator[Examined]:
    opened = await shop.open_sale(units=20, units_per_user=2)
    sale = OnSale(opened.id, opened.salt, 0.0, 0.0)
    crowd = Crowd(shop.base_url, testbed.settings, Driver(testbed, seed=SEED), buyers=0, seed=SEED)
    async with crowd:
        each = Examined(shop, testbed, crowd, sale)
        await each.buy()
        yield each


async def test_a_process_that_found_a_server_away_is_started_again_and_no_other(testbed: Testbed) -> None:
    """The second meets the port of the running shop, which no manager of services could cure."""
    testbed.local.start(API, "api", extra={"SHOP_REDIS_URL": "redis://127.0.0.1:1/0"})
    first = testbed.pid(API)
    assert await testbed.until_ended(API) == NOT_READY

    testbed.restart_ended()

    assert testbed.pid(API) != first
    assert await testbed.until_ended(API) == START_FAILED
    with pytest.raises(Wrecked, match="api ended by itself with status 3"):
        testbed.restart_ended()


async def test_a_sale_that_kept_its_promises_is_clean(examined: Examined) -> None:
    finding = await examined.check()

    assert finding.sentences == []
    assert len(examined.promised) == PURCHASES


async def lose(examined: Examined, order_id: str) -> None:
    await examined.execute("DELETE FROM order_lines WHERE order_id = :id", id=UUID(order_id))
    await examined.execute("DELETE FROM orders WHERE id = :id", id=UUID(order_id))


async def haunt(examined: Examined, order_id: str) -> None:
    known = UUID(order_id)
    ghost = UUID(int=(known.int >> 96 << 96) | (uuid4().int & (2**96 - 1)))
    await examined.execute(
        "INSERT INTO orders SELECT (jsonb_populate_record(o, jsonb_build_object('id', CAST(:ghost AS text)))).*"
        " FROM orders o WHERE id = :id",
        id=known,
        ghost=str(ghost),
    )


async def rob(examined: Examined, order_id: str) -> None:
    await examined.execute("UPDATE orders SET user_id = 'somebody' WHERE id = :id", id=UUID(order_id))


async def oversell(examined: Examined, order_id: str) -> None:
    await examined.execute("UPDATE orders SET quantity = 90 WHERE id = :id", id=UUID(order_id))


@pytest.mark.parametrize(
    ("tamper", "counted", "broken"),
    [
        (lose, {"lost": 1}, {"I6", "I3", "I4"}),
        (haunt, {"ghosts": 1}, {"I9", "I3", "I4", "I6"}),
        (rob, {}, {"I6"}),
        (oversell, {"oversold": 74, "over_limit": 1}, {"I4", "I5", "I6", "I3"}),
    ],
    ids=["lost", "ghost", "another-user", "oversold"],
)
async def test_what_was_tampered_with_is_found(
    examined: Examined,
    tamper: Callable[[Examined, str], Awaitable[None]],
    counted: dict[str, int],
    broken: set[str],
) -> None:
    """Each of the figures that must be 0 can be something else."""
    assert (await examined.check()).clean
    await tamper(examined, min(examined.promised[0].order_ids))

    finding = await examined.check()

    figures = ("lost", "oversold", "over_limit", "duplicated", "ghosts")
    assert {name: getattr(finding, name) for name in figures} == dict.fromkeys(figures, 0) | counted
    assert finding.broken == broken


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO stock_ledger SELECT (jsonb_populate_record(l, jsonb_build_object('seq', l.seq + 1000))).*"
        " FROM stock_ledger l WHERE sale_id = :sale AND kind = 'released'",
        "UPDATE orders SET status = 'reserved', closed_at = NULL, released_at = NULL"
        " WHERE sale_id = :sale AND released_at IS NOT NULL",
    ],
    ids=["twice", "of-an-open-order"],
)
async def test_units_that_went_back_wrongly_are_counted(examined: Examined, statement: str) -> None:
    """Twice, or of an order that is not closed (I8)."""

    async def wrong() -> int:
        async with examined.shop.database.transaction() as session:
            return await released_wrongly(session, examined.sale.id)

    async def released() -> bool:
        async with examined.shop.database.transaction() as session:
            row = text("SELECT count(*) FROM stock_ledger WHERE sale_id = :sale AND kind = 'released'")
            return bool(await session.scalar(row, {"sale": examined.sale.id}))

    await wait_until(released, reason="the release is recorded")
    assert await wrong() == 0

    await examined.execute(statement, sale=examined.sale.id)

    assert await wrong() == 1


async def test_what_does_not_heal_in_time_is_named(examined: Examined) -> None:
    """A sale with an alarm that nobody lifts (I12)."""
    driver = Driver(examined.testbed, seed=SEED)
    driver.sales.append(examined.sale)
    well = await until_healed(examined.testbed, driver, examined.crowd, Slowdown(), since=time.monotonic())
    assert well < HEAL_SECONDS_MAX

    await examined.execute("UPDATE sales SET alarm = 'broken by hand' WHERE id = :sale", sale=examined.sale.id)
    long_ago = time.monotonic() - HEAL_SECONDS_MAX
    with pytest.raises(NotHealed, match=f"sale {examined.sale.id}: alarm: broken by hand"):
        await until_healed(examined.testbed, driver, examined.crowd, Slowdown(), since=long_ago)


async def test_a_round_that_heals_too_late_is_a_violation_and_the_run_goes_on(
    testbed: Testbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To its end, which is no good one: the first is late, the last never heals, and the machine excuses one (I12)."""
    slowdowns = [1.0, SLOW, SLOW]
    alarmed: list[int] = []

    async def set_alarm(words: str | None) -> None:
        async with testbed.database.transaction() as session:
            statement = text("UPDATE sales SET alarm = :words WHERE id = :id")
            await session.execute(statement, {"words": words, "id": alarmed[0]})

    async def inject(context: Context, draw: object) -> Injection:
        monkeypatch.setattr(Slowdown, "factor", slowdowns[state.rounds])
        if state.rounds == 2:
            monkeypatch.setattr(healing, "HEAL_SECONDS_MAX", 1.0)
            alarmed.append(context.driver.sales[0].id)
            await set_alarm("broken by hand")
        return Injection()

    async def is_given_up() -> bool:
        return state.rounds == len(slowdowns) and state.doing.startswith("checking")

    async def lift_alarm() -> None:
        await wait_until(is_given_up, reason="nobody waits for the last round any more")
        await set_alarm(None)

    fault, bar = Fault("nothing", inject, touches("nothing")), HEAL_SECONDS_MAX / SLOW
    state = State(
        TorturePlan(SEED, minutes=60, faults=[fault], pairs=False, rounds_max=len(slowdowns), heal_seconds=bar)
    )
    driver = Driver(testbed, seed=SEED)
    crowd = Crowd(testbed.local.base_url, testbed.settings, driver, buyers=2, seed=SEED)
    async with driver, crowd:
        context = Context(testbed, crowd, driver)
        await asyncio.gather(_course(state.plan, context, state, lambda *_: None, asyncio.Event()), lift_alarm())
    results = results_of(state)

    late, never = results.violations
    assert re.fullmatch(r"I12: healing from nothing took [\d.]+ s of 0\.0 s \(slowdown 1\.0\)", late)
    assert never.endswith(f", and still sale {alarmed[0]}: alarm: broken by hand")
    assert (state.rounds, state.doing) == (len(slowdowns), "last check")
    assert (results.ok, results.invariants["I12"], state.finding.clean) == (False, False, True)


def test_the_readme_keeps_the_table_of_the_longest_run(tmp_path: Path) -> None:
    readme, file = tmp_path / "README.md", tmp_path / "results" / "torture.json"
    readme.write_text("before\n<!-- torture -->\n<!-- /torture -->\nafter\n")
    longer, shorter = (
        msgspec.structs.replace(results_of(State(TorturePlan(seed, minutes=1))), minutes=minutes)
        for seed, minutes in ((1, 60.0), (2, 5.0))
    )

    assert [write_longest(each, readme=readme, file=file) for each in (longer, shorter)] == [True, False]
    assert f"before\n<!-- torture -->\n{markdown(longer)}\n<!-- /torture -->\nafter\n" == readme.read_text()
