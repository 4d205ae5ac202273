"""The real sale behind the model: its scripts on a real Valkey, its drain, changes and recoveries on a real Postgres.

What is done here is what the shop's own processes do, one thing at a time, so that a test may stop between any two.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import redis.asyncio as aioredis
from sqlalchemy.ext.asyncio import AsyncSession

from shop.app.heartbeat import _highest_seq, _report
from shop.auth import CONTROLLER
from shop.database import Database
from shop.errors import ShopError
from shop.ledger import client as ledger
from shop.ledger.client import Answer, LastOrder, RedisClock, ReserveRequest
from shop.ledger.keys import ledger_keys
from shop.orders import life
from shop.orders.models import OrderStatus
from shop.orders.persister import Persister
from shop.pipelined import PipelinedConnection
from shop.products import repository as products
from shop.recovery.steps import Tools, lease, run_step
from shop.redis import load_scripts
from shop.sales import repository as sales
from shop.sales import service
from shop.sales.changes import apply_open_changes, milliseconds
from shop.sales.incidents import repository as recoveries
from shop.sales.incidents.demand import demand_recovery
from shop.sales.loading import load, loaded_sale
from shop.sales.models import ChangeKind, Sale
from shop.sales.schemas import SaleCreate
from shop.seckill.group_commit import GroupCommit, _Waiting
from shop.settings import Settings
from tests.harness import TESTER
from tests.invariants.ledger_model import Wish
from tests.invariants.postgres_model import Row
from tests.invariants.readings import ROWS, LedgerNow, PostgresNow, entry, events, pair
from tests.processes import copy_of

HOUR = timedelta(hours=1)
HALF_AN_HOUR = timedelta(minutes=30)
HOUR_MS = 3_600_000
TIMEOUT_SECONDS = 30.0
STOCK = 10_000
NOBODY = LastOrder(b"", 0)
BATCH_SMALL = 3
BACKLOG_MAX = 25
RECOVERY_STEPS_MAX = 20


class Crash(Exception):
    """The process is gone here."""


class CrashingDatabase(Database):
    """A database of a process that dies at its next commit: right before it, or right after it."""

    crashes = ""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        crashes = self.crashes
        async with super().transaction() as session:
            yield session
            if crashes == "before the commit":
                raise Crash
        if crashes == "after the commit":
            raise Crash


@dataclass
class World:
    """One Valkey and one Postgres, and the sale that is played at the moment."""

    settings: Settings
    database: CrashingDatabase
    redis: aioredis.Redis
    small: Settings = field(init=False)
    """Those of a persister that takes a few events at a time."""
    patient: Settings = field(init=False)
    """Those of an API process that waits for as long as a busy machine needs."""
    sale: Sale = field(init=False)
    base: datetime = field(init=False)
    epoch: int = 1
    ledger_format: int = 2
    """That of this epoch; the setting is another one after a loss."""
    groups: list[GroupCommit] = field(default_factory=list)
    persisters: list[Persister] = field(default_factory=list)
    copy: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.settings = copy_of(self.settings, backlog_max=BACKLOG_MAX)
        self.small = copy_of(self.settings, persist_batch_max=BATCH_SMALL)
        seconds = {"redis_timeout_seconds": TIMEOUT_SECONDS, "purchase_deadline_seconds": 2 * TIMEOUT_SECONDS}
        self.patient = copy_of(self.settings, **seconds)

    async def begin(self, *, units: int, units_per_user: int, orders_per_user: int, ledger_format: int) -> None:
        """A sale of its own, loaded and open, from an hour ago until in ten hours."""
        self.ledger_format = ledger_format
        self.settings = copy_of(self.settings, ledger_format=ledger_format)
        await self.redis.flushdb()
        await load_scripts(self.redis)
        now = datetime.now(UTC)
        self.base = now.replace(microsecond=now.microsecond // 1000 * 1000)
        async with self.database.transaction() as session:
            product = await products.add(session, name="Product", price_minor=990, currency="EUR", stock=STOCK)
            wish = SaleCreate(
                product_id=product.id,
                name="Sale",
                units=units,
                starts_at=self.moment(0),
                ends_at=self.moment(10),
                units_per_user=units_per_user,
                orders_per_user=orders_per_user,
            )
            sale = await service.create(session, TESTER, wish)
            sale.salt = b"the same each time"  # so that the same steps give the same ids
            self.sale = await service.schedule(session, TESTER, sale.id)
        await load(self.database, self.redis, self.sale, self.settings)
        await ledger.list_in_directory(self.redis, loaded_sale(self.sale))
        self.epoch, self.copy = 1, {}
        stopping = asyncio.Event()
        self.persisters = [
            Persister(self.database, self.redis, self.sale.id, each, stopping) for each in (self.small, self.settings)
        ]
        self.groups = [await self.process(), await self.process()]

    def moment(self, hour: float) -> datetime:
        """The moment half an hour before this hour."""
        return self.base + hour * HOUR - HALF_AN_HOUR

    async def process(self) -> GroupCommit:
        """An API process that has just learned of the sale: what it knows is what Postgres has recorded."""
        async with self.database.transaction() as session:
            sale = await session.get_one(Sale, self.sale.id, populate_existing=True)
            last = await sales.last_reserved(session, sale.id, sale.epoch)
        return GroupCommit(
            PipelinedConnection(self.redis),
            loaded_sale(sale),
            last=LastOrder(last[0].bytes, last[1]) if last else NOBODY,
            clock=RedisClock(),
            settings=self.patient,
        )

    async def reserve(self, group: GroupCommit, wishes: Sequence[Wish]) -> list[str]:
        """One batch of a process, in the words of the model. Raises ScriptsNotLoaded."""
        now = time.monotonic()
        answers = await group._send([_Waiting(ReserveRequest(*wish), now) for wish in wishes])
        return [said(answer) for answer in answers]

    async def reserve_late(self, wishes: Sequence[Wish]) -> list[str]:
        """The same, when everybody who asked has given up."""
        clock = RedisClock()
        clock.learn(1)
        requests = [ReserveRequest(*wish) for wish in wishes]
        loaded = self.groups[0].sale
        answers = await ledger.reserve(self.redis, loaded, requests, clock=clock, last=NOBODY, timeout=TIMEOUT_SECONDS)
        return [said(answer) for answer in answers]

    async def release(self, pairs: Sequence[tuple[bytes, int]]) -> list[str]:
        """Give the units of closed orders back."""
        answers = await ledger.release(self.redis, self.sale.id, self.epoch, pairs, timeout=TIMEOUT_SECONDS)
        return [said(answer) for answer in answers]

    async def send_change(self, n: int) -> str:
        """A change out of order, as a thawed controller would send it."""
        answer = await ledger.change(
            self.redis, self.sale.id, self.epoch, n=n, kind="units", first=1_000, timeout=TIMEOUT_SECONDS
        )
        return said(answer)

    async def number(self, kind: str, first: float, second: float) -> bool:
        """Ask for a change, as an admin or the controller; False when the sale is not in a state for it."""
        try:
            async with self.database.transaction() as session:
                match kind:
                    case "units":
                        await service.change_units(session, TESTER, self.sale.id, delta=int(first))
                    case "window":
                        starts_at, ends_at = self.moment(first), self.moment(second)
                        await service.change_window(session, TESTER, self.sale.id, starts_at=starts_at, ends_at=ends_at)
                    case "pause":
                        await service.pause(session, TESTER, self.sale.id)
                    case "resume":
                        await service.resume(session, TESTER, self.sale.id)
                    case "close":
                        await service.close(session, TESTER, self.sale.id)
                    case "restore":
                        return await service.restore_held_back(session, CONTROLLER, self.sale.id) is not None
                    case _:
                        wish = ChangeKind(kind)
                        return await service.end_or_settle(session, CONTROLLER, self.sale.id, wish) is not None
        except ShopError:
            return False
        return True

    async def apply_changes(self) -> dict[int, str]:
        """Offer the open changes to the ledger."""
        return await apply_open_changes(self.database, self.redis, self.sale.id, self.epoch, self.settings)

    async def set_clock(self, skew: int) -> None:
        """Let so many hours pass for the ledger, or take them back."""
        await ledger.command(self.redis, "HSET", self.keys.sale, "skew_ms", skew * HOUR_MS)

    async def move(self, order_id: bytes, to: str, *, restocks: bool) -> bool:
        """Cancel, expire, pay or refund an order; whether it was where it could be moved from."""
        async with self.database.transaction() as session:
            moved = await life.move(
                session,
                [UUID(bytes=order_id)],
                OrderStatus(to),
                by=life.By.SHOP,
                reason="the model",
                closes=restocks if to == "refunded" else None,
            )
        return bool(moved)

    async def drain(self, which: int, *, crashes: str = "") -> None:
        """One step of a persister. One that crashes is replaced. Raises LedgerLost or PoisonedBatch."""
        persister = self.persisters[which]
        persister._position = await persister._read_position()
        self.database.crashes = crashes
        try:
            await persister.step()
        except Crash:
            pass
        finally:
            self.database.crashes = ""
            await persister._stream.drop_ahead()
            if crashes:
                persister._position = None

    async def drain_twice(self) -> None:
        """Both persisters have read the same events; the second comes when the first has recorded them."""
        first, second = self.persisters
        position = await second._read_position()
        assert position is not None
        second._position, events = position, await second._stream.read(position, second._batch_max)
        first._position = None
        await first.step()
        await first._stream.drop_ahead()
        await second._record(events or [])

    async def over_trim(self, seq: int) -> None:
        """Somebody trims the stream above what is recorded."""
        await self.redis.xtrim(self.keys.stream, minid=f"{seq}-0", approximate=False)

    async def lose(self, part: str) -> None:
        """Redis loses a key."""
        await self.redis.delete(getattr(self.keys, part))

    async def keep_copy(self) -> None:
        """What a replica or a disk has of the ledger at this moment."""
        dumps = [(key, await self.redis.dump(key)) for key in self.keys]
        self.copy = {key: dump for key, dump in dumps if dump is not None}

    async def put_copy_back(self) -> None:
        """Redis is as old as the copy."""
        await self.redis.delete(*self.keys)
        for key, dump in self.copy.items():
            await self.redis.restore(key, 0, dump)

    async def recover(self, alive: Sequence[GroupCommit]) -> None:
        """A recovery from its demand to its end; the processes that are alive report what they reserved.

        The setting of the ledger's format is changed before: only a new epoch takes it.
        """
        self.settings = copy_of(self.settings, ledger_format=3 - self.ledger_format)
        async with self.database.transaction() as session:
            sale = await session.get_one(Sale, self.sale.id)
        assert await demand_recovery(self.database, self.redis, sale, "the model", may_load=True)
        tools = Tools(self.database, self.redis, self.settings, lambda _: self.persisters[1])
        for _ in range(RECOVERY_STEPS_MAX):
            recovery = await lease(tools, sale.id)
            if recovery is None:
                break
            if recovery.step == "compare":
                async with self.database.transaction() as session:
                    live = await recoveries.live(session)
                for group in alive:
                    await _report(self.database, live, {(recovery.sale_id, recovery.from_epoch)}, group)
                async with self.database.transaction() as session:
                    await recoveries.answer(session, recovery, uuid4(), _highest_seq(alive, recovery))
            await run_step(tools, recovery)
        assert recovery is None
        async with self.database.transaction() as session:
            self.sale = await session.get_one(Sale, self.sale.id)
        if self.sale.epoch != self.epoch:
            self.epoch, self.ledger_format = self.sale.epoch, self.settings.ledger_format
        for persister in self.persisters:
            persister._position = None

    @property
    def keys(self) -> Any:
        """The keys of the ledger."""
        return ledger_keys(self.sale.id, self.epoch)

    async def ledger_now(self) -> LedgerNow:
        """All keys of the ledger, in one round trip."""
        async with self.redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(self.keys.sale)
            pipe.hgetall(self.keys.buyers)
            pipe.hgetall(self.keys.orders)
            pipe.xrange(self.keys.stream)
            fields, buyers, orders, stream = await pipe.execute()
        return LedgerNow(
            {name.decode(): value.decode() for name, value in fields.items()},
            {user.decode(): pair(value) for user, value in buyers.items()},
            {order_id: entry(value) for order_id, value in orders.items()},
            events(stream),
        )

    async def postgres_now(self) -> PostgresNow:
        """All rows of the sale, in one round trip."""
        async with self.database.transaction() as session:
            found = (await session.execute(ROWS, {"sale_id": self.sale.id})).one()
        sale, orders, events, changes = found
        return PostgresNow(
            tuple(sale),
            {UUID(each[0]).bytes: Row(*each[1:]) for each in orders or ()},
            {(each[0], each[1]): (each[2], each[3], each[4]) for each in events or ()},
            changes or [],
        )

    async def first_moment(self) -> tuple[float, float]:
        """The window in Postgres, in hours of the model."""
        return tuple(  # type: ignore[return-value]
            (milliseconds(moment) - milliseconds(self.moment(0))) / HOUR_MS
            for moment in (self.sale.starts_at, self.sale.ends_at)
        )


def said(answer: Answer) -> str:
    """An answer without the moments in it."""
    fields = answer.fields
    match answer.word:
        case "RESERVED" | "RELEASED" | "APPLIED":
            fields = fields[:2]
        case "REPLAYED":
            fields = (fields[0], fields[1], fields[3])
        case "NOT_OPEN" | "ENDED":
            fields = fields[:1]
    return " ".join((answer.word, *fields))
