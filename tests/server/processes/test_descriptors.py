"""A process keeps descriptors for its own connections, whoever opens others."""

import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
from sqlalchemy import text

from shop.local import environment_of
from shop.processes import run_beside
from tests.harness import LOGINS, Shop, as_user, wait_until
from tests.ports import unused_port
from tests.processes import copy_of

DESCRIPTORS = 160
IDLE = 300
SECONDS_MAX = 50.0


def run_with_descriptors(command: str, environment: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
    """`shop COMMAND` as a process that may have few descriptors; at first it has even fewer."""
    limits = f"ulimit -S -n {DESCRIPTORS // 2} && ulimit -H -n {DESCRIPTORS}"
    with log.open("wb") as output:
        return run_beside(
            ["/bin/sh", "-c", f'{limits} && exec "$0" -m shop {command}', sys.executable],
            environment={**os.environ, **environment},
            output=output.fileno(),
        )


async def test_idle_connections_leave_the_process_what_it_needs_itself(live_shop: Shop, tmp_path: Path) -> None:
    """It has raised its limit, says how many connections fit, and is ready and sells with new ones inside."""
    settings = copy_of(live_shop.settings, api_port=unused_port(), database_pool_wait_seconds=2.0)
    log, address = tmp_path / "api.log", f"http://127.0.0.1:{settings.api_port}"
    environment = {**environment_of(as_user(settings, LOGINS.api_url)), "SHOP_METRICS_PORT": "0"}
    process = run_with_descriptors("api", {**environment, "SHOP_LOG_LEVEL": "warning", "SHOP_LOG_FORMAT": "json"}, log)
    idle: list[socket.socket] = []
    try:
        async with (
            httpx.AsyncClient(base_url=address, timeout=SECONDS_MAX) as client,
            httpx.AsyncClient(base_url=address, timeout=SECONDS_MAX) as connected,
        ):

            async def ready() -> bool:
                assert process.poll() is None, log.read_text()
                with suppress(httpx.TransportError):
                    await connected.get("/livez")  # A connection that is idle for some seconds is ended.
                    return (await client.get("/readyz", headers={"Connection": "close"})).status_code == 200
                return False

            await wait_until(ready, within=SECONDS_MAX, reason="the API is ready")
            assert psutil.Process(process.pid).rlimit(psutil.RLIMIT_NOFILE) == (DESCRIPTORS, DESCRIPTORS)
            assert '"connections_capped"' in log.read_text()
            # Whoever comes after the idle ones is refused; whoever was there is served.
            idle += [socket.create_connection(("127.0.0.1", settings.api_port)) for _ in range(IDLE)]
            async with live_shop.database.transaction() as session:
                await session.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE application_name = 'shop-api' AND pid <> pg_backend_pid()"
                    )
                )

            await wait_until(ready, within=SECONDS_MAX, reason="it is ready with new connections inside")
            assert (await connected.get("/v1/seckill/sales")).status_code == 200
            assert psutil.Process(process.pid).num_fds() < DESCRIPTORS
        assert "Too many open files" not in log.read_text()
    finally:
        for each in idle:
            each.close()
        process.terminate()
        process.wait(SECONDS_MAX)
