"""The metrics page of several processes: one sum, which loses nothing with the process that counted it."""

import asyncio
import os
import signal
import socket
import struct
from collections import Counter
from pathlib import Path

import pytest

from loadtests.client.http import Address, Connection
from shop.local import environment_of
from shop.metrics_page import FILES_UNREADABLE as UNREADABLE
from shop.sales.models import Sale
from shop.settings import Settings
from tests.harness import Shop, new_user_id, wait_until
from tests.nursery import run
from tests.ports import unused_port
from tests.processes import copy_of, lasting
from tests.server.processes.served import ServedApi

CONNECTIONS = 24
PURCHASES = "shop_purchases_total"
REQUESTS = "shop_http_requests_total"
UNITS = 30
BUYERS = 48
READERS = 24
FLUSHED_SECONDS = 0.5
DEAD = 2**30  # more than any kernel gives to a process


async def ask(shop: Shop, requests: list[bytes]) -> None:
    """Send the requests over many new connections; the kernel gives some to each process."""
    address = Address.of(shop.base_url)

    async def ask_each(own: list[bytes]) -> None:
        connection = await Connection.open(address, timeout_seconds=5)
        for request in own:
            await connection.exchange(request, timeout_seconds=5)
        connection.close()

    await asyncio.gather(*(ask_each(requests[number::CONNECTIONS]) for number in range(CONNECTIONS)))


def purchase(shop: Shop, sale: Sale) -> bytes:
    path = shop.purchase_path(sale)
    return Address.of(shop.base_url).request("POST", path, headers=shop.headers(new_user_id()), body=b'{"quantity":1}')


def reading(shop: Shop) -> bytes:
    return Address.of(shop.base_url).request("GET", "/version", headers={})


async def page(pool: ServedApi) -> tuple[Counter[str], Counter[str]]:
    """The purchases by their outcome, and the requests by their status."""
    return await pool.counted(PURCHASES, "outcome"), await pool.counted(REQUESTS, "status")


async def settled(pool: ServedApi) -> tuple[Counter[str], Counter[str]]:
    """The page when each process has added what it counted: it does so a few times a second."""
    await lasting(FLUSHED_SECONDS)
    return await page(pool)


async def test_the_page_counts_what_all_processes_did_and_nothing_twice(pool: ServedApi) -> None:
    sale = await pool.open_sale(units=UNITS)
    purchases_before, statuses_before = await settled(pool)

    wishes = [*(purchase(pool.shop, sale) for _ in range(BUYERS)), *(reading(pool.shop) for _ in range(READERS))]
    await ask(pool.shop, wishes)
    purchases, statuses = await settled(pool)

    assert purchases - purchases_before == {"reserved": UNITS, "sold_out": BUYERS - UNITS}
    assert statuses - statuses_before == {"202": UNITS, "409": BUYERS - UNITS, "200": READERS}


async def test_what_a_process_has_counted_outlives_it_and_what_it_has_now_does_not(pool: ServedApi) -> None:
    """Counters stay; a gauge of connections that nobody holds any longer would lie."""
    killed, stays = pool.workers()
    await ask(pool.shop, [reading(pool.shop) for _ in range(READERS)])
    before = await settled(pool)
    assert gauging(pool) >= {killed, stays}

    os.kill(killed, signal.SIGKILL)
    after = set(await pool.until_workers(2, without={killed}))

    assert await page(pool) == before
    assert gauging(pool) & {killed, stays} == {stays}
    await wait_until(lambda: all_gauging(pool, after), reason="the successor shows its own")


async def test_a_file_that_cannot_be_read_costs_the_page_nothing_but_what_that_process_counted(pool: ServedApi) -> None:
    """A process was killed while it made or wrote its file. What is left of one that is dead is cleared away."""
    here, directory = os.getpid(), pool.processes.directory / "metrics"
    before = await settled(pool)
    backwards = struct.pack("<iiii", 1 << 10, 0, -28, 0) + bytes(1 << 10)  # read for ever by who believes it
    broken = {
        f"counter_{here}.db": b"",
        f"histogram_{here}.db": struct.pack("<iii", 1 << 12, 0, 200) + b"cut in its first name",
        f"gauge_mostrecent_{here}.db": b"\x7f" * 4096,
        f"gauge_livesum_{here}.db": backwards,
        f"gauge_all_{here}.db": struct.pack("<iii", 48, 0, 8) + b"no JSON!" + bytes(28),
        "gauge_livesum_nobody.db": b"",
        f"counter_{DEAD}.db": b"\1",
    }
    for name, content in broken.items():
        (directory / name).write_bytes(content)
    (directory / f"summary_{here}.db").mkdir()

    assert await pool.counted(UNREADABLE, "") == {"": len(broken) + 1}
    assert await page(pool) == before
    assert not (directory / f"counter_{DEAD}.db").exists()
    (directory / f"counter_{here}.db").write_bytes(bytes(4096))
    assert await pool.counted(UNREADABLE, "") == {"": len(broken) - 1}

    for name in broken:
        (directory / name).unlink(missing_ok=True)
    (directory / f"summary_{here}.db").rmdir()
    assert (await page(pool), await pool.counted(UNREADABLE, "")) == (before, {"": 0})


def gauging(pool: ServedApi) -> set[int]:
    """The processes whose gauges are shown: those that have a file where they were told to count."""
    found = (pool.processes.directory / "metrics").glob("gauge_live*.db")
    return {int(file.stem.rsplit("_", 1)[1]) for file in found}


async def all_gauging(pool: ServedApi, processes: set[int]) -> bool:
    await pool.metrics()
    return processes <= gauging(pool)


@pytest.mark.parametrize("named", [True, False], ids=["named from outside", "its own"])
def test_the_directory_of_the_metrics_is_removed_unless_it_was_named_from_outside(
    named: bool, live_settings: Settings, tmp_path: Path
) -> None:
    """Others may count there, too. Also when the start fails."""
    (tmp_path / "named").mkdir()
    (tmp_path / "temporary").mkdir()
    variables = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "named")} if named else {}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = copy_of(live_settings, metrics_port=taken.getsockname()[1], api_port=unused_port())
        variables |= environment_of(settings)
        said = run(tmp_path, "api", "--processes", "2", TMPDIR=str(tmp_path / "temporary"), **variables)

    assert said.status == 1
    assert "the metrics cannot listen on" in said.errors
    assert (tmp_path / "named").exists()
    assert list((tmp_path / "temporary").iterdir()) == []
