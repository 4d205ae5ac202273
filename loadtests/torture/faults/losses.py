"""What is done to the ledger's data: it is forgotten, in part or altogether, refused, set wrong, or poisoned.

With the API's processes alive nothing that was promised is lost, and only then is that the promise: so these faults
touch the API as well, and nobody kills it meanwhile.
"""

import asyncio
import os
import shutil
import time
from pathlib import Path

from loadtests.torture.context import Broken, Context
from loadtests.torture.plan import Draw, Fault, Injection, touches
from loadtests.torture.testbed import Testbed
from shop.auth import Actor
from shop.errors import NotFound, SaleStateConflict
from shop.failure_isolation import SERVER_ERRORS
from shop.ledger import client as ledger
from shop.ledger.keys import LedgerKeys, ledger_keys
from shop.orders.poison import quarantine
from shop.sales import repository
from shop.sales.incidents.demand import recover
from shop.sales.models import Sale

TORTURER = Actor(id="torturer", address="local")
ALARM_SECONDS_MAX = 5.0
QUARANTINE_SECONDS_MAX = 10.0
POLL_SECONDS = 0.02
HOUR_MS = 3_600_000
AOF_SECONDS = 0.3

# As nobody but an operator with all rights could do it: the shop's own users may not send EVAL.
POISON = """
local seq = tonumber(redis.call('HGET', KEYS[1], 'seq')) + 1
redis.call('XADD', KEYS[2], seq .. '-0', 'junk', 'torture')
redis.call('HSET', KEYS[1], 'seq', seq)
return seq
"""
SKEW = """
if redis.call('HEXISTS', KEYS[1], 'skew_ms') == 1 then redis.call('HSET', KEYS[1], 'skew_ms', ARGV[1]) end
return 1
"""


async def flush_scripts(context: Context, _: Draw) -> Injection:
    """Redis forgets the scripts; only the controller loads them again."""
    await context.testbed.redis.script_flush()
    return Injection(0, "SCRIPT FLUSH")


async def empty_redis(context: Context, _: Draw) -> Injection:
    """Everything in Redis is gone, in the middle of a sale."""
    await context.until_in_flight()
    await context.testbed.redis.flushall()
    return Injection(0, "FLUSHALL")


async def delete_redis_data(context: Context, _: Draw) -> Injection:
    """Redis is killed, and its directory is gone when it starts again."""
    valkey = context.testbed.servers.valkey
    injection = await context.kill([valkey.pid], "Valkey with its data")
    await asyncio.to_thread(valkey.kill)
    shutil.rmtree(_append_only_directory(context.testbed))
    await context.testbed.start_server(valkey)
    return injection


async def roll_redis_back(context: Context, _: Draw) -> Injection:
    """Redis is killed and loses what it wrote last, as in a power cut between two fsyncs."""
    testbed, valkey = context.testbed, context.testbed.servers.valkey
    files = sorted(_append_only_directory(testbed).glob("*.incr.aof"))
    size = files[-1].stat().st_size
    await asyncio.sleep(AOF_SECONDS)
    injection = await context.kill([valkey.pid], "Valkey")
    await asyncio.to_thread(valkey.kill)
    lost = files[-1].stat().st_size - size
    os.truncate(files[-1], size)
    testbed.losses.append(time.monotonic())
    await testbed.start_server(valkey)
    return Injection(injection.kills, f"{injection.words}, {lost} bytes lost")


async def delete_part_of_ledger(context: Context, draw: Draw) -> Injection:
    """One of the keys of a ledger is gone."""
    sale = context.sale(draw)
    part = LedgerKeys._fields[draw.randrange(0, len(LedgerKeys._fields))]
    epoch = (await _row(context.testbed, sale.id)).epoch
    await context.testbed.redis.delete(getattr(ledger_keys(sale.id, epoch), part))
    return Injection(0, f"{part} of sale {sale.id}")


async def fill_memory(context: Context, draw: Draw) -> Injection:
    """Redis has no room: purchases are refused before anything is done, releases and changes go on."""
    redis = context.testbed.redis
    await redis.config_set("maxmemory", 1)
    try:
        await asyncio.sleep(draw.uniform(0.5, 2.5))
    finally:
        await context.testbed.until_answered(lambda: redis.config_set("maxmemory", 0))
    return Injection(0, "maxmemory 1")


async def skew_clock(context: Context, draw: Draw) -> Injection:
    """The ledgers' clock jumps by an hour; no window is that close, and no hold may end or last longer for it."""
    skew_ms = HOUR_MS if draw.uniform(0.0, 1.0) < 0.5 else -HOUR_MS
    keys = [ledger_keys(sale.id, (await _row(context.testbed, sale.id)).epoch).sale for sale in context.driver.selling]
    await _skew(context.testbed, keys, skew_ms)
    try:
        await asyncio.sleep(draw.uniform(0.5, 2.0))
    finally:
        await context.testbed.until_answered(lambda: _skew(context.testbed, keys, 0))
    return Injection(0, f"{skew_ms // HOUR_MS:+d} h")


async def _skew(testbed: Testbed, keys: list[str], skew_ms: int) -> None:
    for key in keys:
        await testbed.redis.eval(SKEW, 1, key, str(skew_ms))  # type: ignore[no-untyped-call, misc, unused-ignore]


async def poison_ledger(context: Context, draw: Draw) -> Injection:
    """An entry that cannot be recorded: the sale must stop by itself, and goes on when an operator quarantines it."""
    testbed = context.testbed
    async with context.driver.unchanging:
        sale = context.sale(draw)
        epoch = (await _row(testbed, sale.id)).epoch
        keys = ledger_keys(sale.id, epoch)
        seq = int(
            await testbed.redis.eval(POISON, 2, keys.sale, keys.stream)  # type: ignore[no-untyped-call, misc, unused-ignore]
        )
        started = time.monotonic()
        while not await _is_stopped(testbed, sale.id, epoch):
            if time.monotonic() > started + ALARM_SECONDS_MAX:
                raise Broken("I12", f"sale {sale.id} goes on with a poisoned entry after {ALARM_SECONDS_MAX:g} s")
            await asyncio.sleep(POLL_SECONDS)
        noticed = time.monotonic() - started
        await _quarantine(testbed, sale.id, seq)
    return Injection(0, f"sale {sale.id}, noticed after {noticed:.1f} s")


async def _is_stopped(testbed: Testbed, sale_id: int, epoch: int) -> bool:
    """Whether the alarm rings and the ledger sells nothing; that it is paused cannot be recorded behind the poison."""
    row = await _row(testbed, sale_id)
    state = await testbed.until_answered(lambda: ledger.read_state(testbed.redis, sale_id, epoch))
    return row.alarm is not None and state is not None and state.state == "paused"


async def _quarantine(testbed: Testbed, sale_id: int, seq: int) -> None:
    deadline = time.monotonic() + QUARANTINE_SECONDS_MAX
    while True:
        try:
            await quarantine(testbed.database, testbed.redis, TORTURER, sale_id, seq)
            return
        except (SaleStateConflict, NotFound, *SERVER_ERRORS) as error:
            if time.monotonic() > deadline:
                raise Broken("I12", f"entry {seq} of sale {sale_id} cannot be quarantined: {error!r}") from error
        await asyncio.sleep(POLL_SECONDS)


async def ask_for_recovery(context: Context, draw: Draw) -> Injection:
    """An operator asks for a comparison while the sale goes on."""
    sale = context.sale(draw)

    async def ask() -> None:
        await recover(context.testbed.database, TORTURER, sale.id)

    await context.testbed.until_answered(ask)
    return Injection(0, f"sale {sale.id}")


async def _row(testbed: Testbed, sale_id: int) -> Sale:
    async def read() -> Sale:
        async with testbed.database.transaction() as session:
            row = await repository.find(session, sale_id)
        if row is None:
            raise Broken("I6", f"sale {sale_id} has no row")
        return row

    return await testbed.until_answered(read)


def _append_only_directory(testbed: Testbed) -> Path:
    return testbed.servers.valkey.directory / "appendonlydir"


ALL = ("api", "worker", "valkey", "postgres", "network", "wire")
FAULTS = (
    Fault("flush_scripts", flush_scripts, touches("valkey")),
    Fault("empty_redis", empty_redis, touches("api", "valkey"), weight=2),
    Fault("delete_redis_data", delete_redis_data, touches("api", "valkey")),
    Fault("roll_redis_back", roll_redis_back, touches("api", "valkey"), weight=4, only="everysec"),
    Fault("delete_part_of_ledger", delete_part_of_ledger, touches("api", "valkey")),
    Fault("fill_memory", fill_memory, touches("valkey")),
    Fault("skew_clock", skew_clock, touches("valkey")),
    Fault("ask_for_recovery", ask_for_recovery, touches("valkey", "postgres")),
    Fault("poison_ledger", poison_ledger, touches(*ALL)),
)
