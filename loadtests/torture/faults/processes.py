"""What is done to processes and servers: they are killed, stopped for a while, or replaced.

A kill counts only if a purchase was in flight at that moment.
"""

import asyncio
import os
import signal
from pathlib import Path

from sqlalchemy import text

from loadtests.bench.accounting import family
from loadtests.torture.context import Context
from loadtests.torture.plan import Draw, Fault, Injection, touches
from loadtests.torture.testbed import API, WORKERS, frozen, send, until
from shop.orders.persister import APPLICATION_NAME

FAULT_POINT_SECONDS_MAX = 20.0
EXTRA_WORKER = "worker-with-a-fault"
VICTIMS = (APPLICATION_NAME, "shop-worker", "shop-api")


async def kill_api_process(context: Context, draw: Draw) -> Injection:
    """One of the processes that serve; its parent replaces it."""
    testbed = context.testbed
    await until(lambda: len(testbed.api_pids()) > 0, reason="an API process serves")
    serving = sorted(testbed.api_pids())
    return await context.kill([serving[draw.randrange(0, len(serving))]], "one API process")


async def kill_all_api(context: Context, _: Draw) -> Injection:
    """All of the API at one moment, its parent too; it is started again as a service manager would."""
    testbed = context.testbed
    injection = await context.kill(family(testbed.pid(API)), "the whole API")
    await testbed.until_ended(API)
    testbed.start(API)
    return injection


async def kill_worker(context: Context, draw: Draw) -> Injection:
    """A worker, wherever it is; it is started again."""
    testbed = context.testbed
    name = WORKERS[draw.randrange(0, len(WORKERS))]
    await testbed.until_works(name)
    injection = await context.kill([testbed.pid(name)], name)
    await testbed.until_ended(name)
    testbed.start(name)
    return injection


async def kill_worker_before_commit(context: Context, _: Draw) -> Injection:
    """A worker that dies with the rows written and not committed."""
    return await _until_it_kills_itself(context, "before_commit")


async def kill_worker_after_commit(context: Context, _: Draw) -> Injection:
    """A worker that dies with the rows committed and the stream not trimmed."""
    return await _until_it_kills_itself(context, "after_commit")


async def _until_it_kills_itself(context: Context, point: str) -> Injection:
    """Start one worker more; it may never come to the point while the others are faster, then it is just stopped."""
    testbed = context.testbed
    testbed.start(EXTRA_WORKER, fault=point)
    process = testbed.local.processes[EXTRA_WORKER]
    in_flight = 0
    for _ in range(int(FAULT_POINT_SECONDS_MAX / 0.01)):
        in_flight = context.crowd.in_flight or in_flight
        if process.poll() is not None:
            break
        await asyncio.sleep(0.01)
    status = process.poll()
    await asyncio.to_thread(testbed.local.stop, EXTRA_WORKER)
    killed = status == -signal.SIGKILL and in_flight > 0
    return Injection(int(killed), f"status {status}")


async def kill_valkey(context: Context, _: Draw) -> Injection:
    """The ledger's server; it starts again on what it has written."""
    valkey = context.testbed.servers.valkey
    injection = await context.kill([valkey.pid], "Valkey")
    await asyncio.to_thread(valkey.kill)
    await context.testbed.start_server(valkey)
    return injection


async def kill_postgres(context: Context, _: Draw) -> Injection:
    """Postgres with all its processes."""
    postgres = context.testbed.servers.postgres
    injection = await context.kill(family(postgres.pid), "Postgres")
    await asyncio.to_thread(postgres.kill)
    await context.testbed.start_server(postgres)
    return injection


async def stop_postgres_at_once(context: Context, _: Draw) -> Injection:
    """The immediate stop: every connection is cut, nothing is written any more."""
    postgres = context.testbed.servers.postgres
    pid = postgres.pid
    send([pid], signal.SIGQUIT)
    await until(lambda: _has_ended(pid), reason="Postgres has stopped")
    await asyncio.to_thread(postgres.kill)
    await context.testbed.start_server(postgres)
    return Injection(0, "immediate stop")


async def kill_postgres_backend(context: Context, draw: Draw) -> Injection:
    """One connection's process: Postgres ends all others too, and recovers."""
    testbed = context.testbed
    victim = VICTIMS[draw.randrange(0, len(VICTIMS))]

    async def pids() -> list[int]:
        query = text("SELECT pid FROM pg_stat_activity WHERE application_name = :name ORDER BY backend_start, pid")
        async with testbed.database.transaction() as session:
            return list((await session.execute(query, {"name": victim})).scalars())

    found = await testbed.until_answered(pids)
    return await context.kill(found[:1], f"a backend of {victim}")


async def freeze_postgres(context: Context, draw: Draw) -> Injection:
    """All of its processes are stopped for some seconds."""
    return await _freeze([context.testbed.servers.postgres.pid], draw.uniform(1.0, 4.0), "Postgres")


async def freeze_valkey(context: Context, draw: Draw) -> Injection:
    """The ledger's server is stopped, mostly for a moment and sometimes for ten seconds."""
    seconds = 10.0 if draw.uniform(0.0, 1.0) < 0.1 else draw.uniform(0.5, 3.0)
    return await _freeze([context.testbed.servers.valkey.pid], seconds, "Valkey")


async def freeze_worker(context: Context, draw: Draw) -> Injection:
    """A worker is stopped in whatever it does, and goes on later as if nothing had been."""
    name = WORKERS[draw.randrange(0, len(WORKERS))]
    await context.testbed.until_works(name)
    return await _freeze([context.testbed.pid(name)], draw.uniform(1.0, 4.0), name)


async def freeze_api_process(context: Context, draw: Draw) -> Injection:
    """One of the processes that serve is stopped; who is connected to it waits."""
    testbed = context.testbed
    await until(lambda: len(testbed.api_pids()) > 0, reason="an API process serves")
    serving = sorted(testbed.api_pids())
    return await _freeze([serving[draw.randrange(0, len(serving))]], draw.uniform(0.5, 4.0), "one API process")


async def _freeze(pids: list[int], seconds: float, words: str) -> Injection:
    with frozen(pids):
        await asyncio.sleep(seconds)
    return Injection(0, f"{words} for {seconds:.1f} s")


async def renew_api(context: Context, _: Draw) -> Injection:
    """Replace the processes one by one, as a release does; no kill, and no request may fail for it."""
    os.kill(context.testbed.pid(API), signal.SIGHUP)
    return Injection(0, "SIGHUP")


async def restart_worker(context: Context, draw: Draw) -> Injection:
    """A worker is asked to end, finishes its batch, and is started again."""
    testbed = context.testbed
    name = WORKERS[draw.randrange(0, len(WORKERS))]
    await testbed.until_works(name)
    await asyncio.to_thread(testbed.local.stop, name)
    testbed.start(name)
    return Injection(0, f"SIGTERM to {name}")


def _has_ended(pid: int) -> bool:
    """Whether a process is gone, or waits for its parent to ask what became of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


FAULTS = (
    Fault("kill_api_process", kill_api_process, touches("api"), weight=10),
    Fault("kill_all_api", kill_all_api, touches("api")),
    Fault("kill_worker", kill_worker, touches("worker"), weight=10),
    Fault("kill_worker_before_commit", kill_worker_before_commit, touches("worker")),
    Fault("kill_worker_after_commit", kill_worker_after_commit, touches("worker")),
    Fault("kill_valkey", kill_valkey, touches("valkey"), weight=7),
    Fault("kill_postgres", kill_postgres, touches("postgres"), weight=2),
    Fault("kill_postgres_backend", kill_postgres_backend, touches("postgres"), weight=8),
    Fault("stop_postgres_at_once", stop_postgres_at_once, touches("postgres")),
    Fault("freeze_postgres", freeze_postgres, touches("postgres")),
    Fault("freeze_valkey", freeze_valkey, touches("valkey")),
    Fault("freeze_worker", freeze_worker, touches("worker")),
    Fault("freeze_api_process", freeze_api_process, touches("api")),
    Fault("renew_api", renew_api, touches("api")),
    Fault("restart_worker", restart_worker, touches("worker")),
)
