"""A worker whose wall clock is set while it runs goes on as before: what passes is measured by another clock."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import select, update

from shop.database import Database
from shop.embedded import EmbeddedServers
from shop.local import environment_of
from shop.orders.models import Order, OrderStatus
from shop.settings import Settings
from tests.conftest import settings_of
from tests.harness import wait_until
from tests.notifications.outbox import make_order
from tests.source_tree import ROOT

HOUR = 3_600
START_SECONDS = 180.0  # a new interpreter on a busy machine
EXPIRES_SECONDS = 20.0
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def own_settings(servers: EmbeddedServers, template_database: str) -> Settings:
    """The settings of a worker that no other has work for."""
    return settings_of(servers, database="stepped", redis_number=3, template=template_database)


@dataclass(frozen=True)
class SteppedWorker:
    """A worker as a process of its own, whose wall clock a test sets."""

    offset: Path
    log: Path

    def set_clock(self, seconds: int) -> None:
        """From now on its clock is off by so much."""
        self.offset.write_text(str(seconds))

    def steps(self, direction: str) -> int:
        """How often it has said that its clock was set there."""
        return sum("clock_set" in line and direction in line for line in self.log.read_text().splitlines())


@pytest.fixture
def worker(own_settings: Settings, tmp_path: Path) -> Iterator[SteppedWorker]:
    stepped = SteppedWorker(tmp_path / "offset", tmp_path / "log")
    stepped.set_clock(0)
    variables = {
        **os.environ,
        **environment_of(own_settings),
        "STEPPED_CLOCK": str(stepped.offset),
        "SHOP_WORKER_METRICS_PORT": "0",
        "SHOP_LOG_LEVEL": "warning",
    }
    command = [sys.executable, "-m", "tests.faults.stepped_clock", "worker"]
    with stepped.log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=output, stderr=output)
    yield stepped
    process.terminate()
    process.wait()


@pytest.mark.timeout(300)
async def test_holds_expire_whatever_the_clock_of_the_worker_is_set_to(
    own_settings: Settings, worker: SteppedWorker
) -> None:
    """arq's own schedule would wait until the clock has caught up: for an hour."""
    database = Database(own_settings, application_name="shop-tests")
    await expires(database, within=START_SECONDS)

    for direction, seconds in (("back", -HOUR), ("forward", 0), ("forward", HOUR)):
        before = worker.steps(direction)
        worker.set_clock(seconds)

        await expires(database, within=EXPIRES_SECONDS)
        await said(worker, direction, before + 1)
    await database.close()


async def expires(database: Database, *, within: float) -> None:
    """A hold that has run out is closed by the worker."""
    order = await make_order(database)
    async with database.transaction() as session:
        await session.execute(update(Order).where(Order.id == order.id).values(expires_at=LONG_AGO))

    async def expired() -> bool:
        return await status_of(database, order.id) == OrderStatus.EXPIRED

    await wait_until(expired, within=within, reason="the hold expires")


async def status_of(database: Database, order_id: UUID) -> OrderStatus:
    async with database.transaction() as session:
        return (await session.scalars(select(Order.status).where(Order.id == order_id))).one()


async def said(worker: SteppedWorker, direction: str, times: int) -> None:
    """The step is seen, and logged."""

    async def seen() -> bool:
        return worker.steps(direction) >= times

    await wait_until(seen, reason=f"a step {direction} is logged")
