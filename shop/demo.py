"""`shop demo`: a whole flash sale on this machine, watched while it runs, and proved when it is over."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import msgspec
import redis.asyncio as aioredis
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from loadtests.record import read_record
from loadtests.summary import json_line, print_summary
from loadtests.verify import Verdict, verify
from shop.audit.service import audit_sale
from shop.auth import COMMAND_LINE, issue_token
from shop.database import Database
from shop.local import LocalShop, local_shop
from shop.products import repository as products
from shop.redis import connect
from shop.sales import repository as sales
from shop.sales import service
from shop.sales.schemas import SaleCreate
from shop.seckill import ledger
from shop.settings import Settings
from shop.users.models import Role
from shop.users.passwords import Passwords
from shop.users.service import make_shoppers, register

ADMIN_EMAIL = "admin@example.com"
ADMIN_PASSWORD = "a golden ticket"  # noqa: S105 - printed on purpose, for a shop that lives a minute
STARTS_IN_SECONDS = 1.5
LASTS_SECONDS = 3_600
HOLD_SECONDS = 3_600
PRICE_MINOR = 99_00
CROWD_SECONDS_MAX = 240
DRAIN_SECONDS_MAX = 60
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class DemoPlan:
    """How large the demo is."""

    units: int
    shoppers: int
    processes: int
    connections: int
    seed: int


@dataclass(frozen=True)
class _Stage:
    """What was set up for the crowd."""

    sale_id: int
    tokens: Path
    admin_token: str
    shopper_token: str


def run_demo(plan: DemoPlan, settings: Settings, *, stay: bool, as_json: bool) -> bool:
    """Run the sale and print the proof; True when everything holds. Raises ServerUnavailable or NotStarted."""
    console = Console(stderr=as_json, highlight=False)
    with _terminated_by_exception(), local_shop(settings, None, api_processes=plan.processes) as shop:
        console.print(f"[bold]Shop[/bold] at {shop.base_url}, {plan.shoppers:,} shoppers for {plan.units:,} units")
        stage = asyncio.run(_set_up(shop, plan))
        record_file = shop.directory / "record.jsonl"
        _rush(shop, plan, stage, record_file, console)
        verdict = asyncio.run(_verdict(shop, stage, record_file))
        print_summary(verdict, console)
        if stay:
            _stay(shop, stage, console)
    if as_json:
        print(json_line(verdict), flush=True)  # noqa: T201 - this is the command's output
    return verdict.ok


async def _set_up(shop: LocalShop, plan: DemoPlan) -> _Stage:
    """Make the admin, the product, the shoppers and the sale, through the same services as the API."""
    settings = shop.settings
    database = Database(settings, application_name="shop-demo", pool_max=2, statement_seconds=60)
    passwords = Passwords(settings)
    async with database.transaction() as session:
        admin = await register(session, passwords, email=ADMIN_EMAIL, password=ADMIN_PASSWORD, role=Role.ADMIN)
        product = await products.add(
            session, name="Golden Ticket", price_minor=PRICE_MINOR, currency="EUR", stock=plan.units
        )
        shoppers = await make_shoppers(session, plan.shoppers)
    tokens = shop.directory / "tokens.txt"
    signed = [(user_id, issue_token(settings, user_id=user_id, role=Role.SHOPPER)) for user_id in shoppers]
    tokens.touch(mode=0o600)
    tokens.write_text("".join(f"{user_id} {token}\n" for user_id, token in signed))
    async with database.transaction() as session:
        starts_at = datetime.now(UTC) + timedelta(seconds=STARTS_IN_SECONDS)
        wish = SaleCreate(
            product_id=product.id,
            name="Golden Ticket flash sale",
            units=plan.units,
            hold_seconds=HOLD_SECONDS,
            starts_at=starts_at,
            ends_at=starts_at + timedelta(seconds=LASTS_SECONDS),
        )
        sale = await service.create(session, COMMAND_LINE, wish)
        await service.schedule(session, COMMAND_LINE, sale.id)
    passwords.close()
    await database.close()
    admin_token = issue_token(settings, user_id=admin.id, role=Role.ADMIN)
    return _Stage(sale.id, tokens, admin_token, signed[0][1])


def _rush(shop: LocalShop, plan: DemoPlan, stage: _Stage, record_file: Path, console: Console) -> None:
    """Run the crowd as a process of its own and show its progress."""
    command = [
        sys.executable, "-m", "loadtests.rush", "--base-url", shop.base_url, "--sale", str(stage.sale_id),
        "--tokens", str(stage.tokens), "--seed", str(plan.seed), "--connections", str(plan.connections),
        "--timeout", str(CROWD_SECONDS_MAX), "--record", str(record_file),
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as crowd:  # noqa: S603 - our own
        try:
            with Live(console=console, refresh_per_second=10, transient=True) as live:
                for progress in _progress(crowd):
                    live.update(_screen(plan, progress))
        except BaseException:
            crowd.terminate()
            raise
        if crowd.wait() != 0 or not record_file.exists():
            errors = crowd.stderr.read().decode(errors="replace") if crowd.stderr else ""
            raise RuntimeError(f"the crowd ended with status {crowd.returncode}: {errors[-2000:]}")


def _progress(crowd: "subprocess.Popen[bytes]") -> Iterator[dict[str, Any]]:
    for line in crowd.stdout or ():
        message: dict[str, Any] = msgspec.json.decode(line)
        if "progress" in message:
            yield message["progress"]


def _screen(plan: DemoPlan, progress: dict[str, Any]) -> Table:
    left = max(plan.units - progress["reserved"], 0)
    seconds = max(progress["elapsed_seconds"], 0.001)
    table = Table.grid(padding=(0, 2))
    table.add_row("units left", f"[bold]{left:,}[/bold]", ProgressBar(total=plan.units, completed=left, width=40))
    answered = ProgressBar(total=progress["shoppers"], completed=progress["answered"], width=40)
    table.add_row("shoppers answered", f"{progress['answered']:,}", answered)
    table.add_row("attempts", f"{progress['attempts']:,}", f"{progress['attempts'] / seconds:,.0f} per second")
    return table


async def _verdict(shop: LocalShop, stage: _Stage, record_file: Path) -> Verdict:
    """Wait for the drain, then compare what the crowd was told with Postgres and Redis."""
    settings = shop.settings
    database = Database(settings, application_name="shop-demo", pool_max=2, statement_seconds=60)
    client = connect(settings.redis_url, settings)
    started = time.monotonic()
    try:
        while not await _drained(database, client, stage.sale_id):
            if time.monotonic() - started > DRAIN_SECONDS_MAX:
                break  # The audit and the comparison below will say what is missing.
            await asyncio.sleep(POLL_SECONDS)
        drain_seconds = time.monotonic() - started
        report = await audit_sale(database, client, stage.sale_id)
        async with database.transaction() as session:
            return await verify(
                session,
                sale_id=stage.sale_id,
                record=read_record(record_file),
                invariants=report.invariants,
                drain_seconds=drain_seconds,
            )
    finally:
        await database.close()
        await client.aclose(close_connection_pool=True)


async def _drained(database: Database, client: aioredis.Redis, sale_id: int) -> bool:
    async with database.transaction() as session:
        sale = await sales.find(session, sale_id)
    if sale is None:
        return False
    state = await ledger.read_state(client, sale_id, sale.epoch)
    return state is not None and state.seq == sale.watermark


def _stay(shop: LocalShop, stage: _Stage, console: Console) -> None:
    console.print(f"\nThe shop stays up until Ctrl-C:  {shop.base_url}/docs   metrics {shop.metrics_url}")
    console.print(f"admin    {ADMIN_EMAIL} / {ADMIN_PASSWORD}\nadmin token    {stage.admin_token}", soft_wrap=True)
    console.print(f"shopper token  {stage.shopper_token}", soft_wrap=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        console.print("stopping")


@contextmanager
def _terminated_by_exception() -> Iterator[None]:
    """Within it SIGTERM is a KeyboardInterrupt, so that every server is stopped on the way out."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
