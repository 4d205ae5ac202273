"""The machine that a run was measured on, as far as the figures depend on it."""

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

import msgspec
from sqlalchemy import text

from loadtests.bench.testbed import Testbed

FSYNC_BYTES = 4096
FSYNC_TIMES = 100
MICROSECONDS = 1_000_000


class Machine(msgspec.Struct, kw_only=True):
    """`fsync_us` is the median of small writes that are synced, where the servers keep their data.

    `apart` tells whether the API under test had a core of its own.
    """

    processor: str
    cores: int
    apart: bool
    fsync_us: float
    python: str
    uvicorn: str
    valkey: str
    postgres: str


async def describe(testbed: Testbed) -> Machine:
    """What this machine is."""
    async with testbed.database.transaction() as session:
        postgres = (await session.execute(text("SHOW server_version"))).scalar_one()
    server = await testbed.redis.info("server")
    return Machine(
        processor=_processor(),
        cores=os.cpu_count() or 1,
        apart=testbed.cores.apart,
        fsync_us=fsync_us(testbed.local.directory),
        python=platform.python_version(),
        uvicorn=version("uvicorn"),
        valkey=str(server.get("valkey_version") or server.get("redis_version")),
        postgres=str(postgres),
    )


def fsync_us(directory: Path) -> float:
    """The microseconds of one small write and its fsync, in the middle."""
    file = directory / "fsync"
    times = []
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        for _ in range(FSYNC_TIMES):
            began = time.perf_counter()
            os.write(descriptor, bytes(FSYNC_BYTES))
            os.fsync(descriptor)
            times.append(time.perf_counter() - began)
    finally:
        os.close(descriptor)
        file.unlink()
    return round(MICROSECONDS * median(times), 1)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
