"""An API that is asked to stop: what was accepted is answered, nothing else is, and it ends in time."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from shop.stopping import CLOSING_SECONDS
from tests.harness import Shop, wait_until
from tests.nursery import alive
from tests.server.processes.crowd import SteadyCrowd, assert_all_recorded, buying
from tests.server.processes.served import ServedApi

CONNECTIONS = 24
GRACEFUL_STOP_SECONDS = 1
HALF_A_REQUEST = b"POST /v1/users HTTP/1.1\r\nHost: shop\r\nContent-Length: 9\r\n\r\n{"
WHOLE_REQUEST = b"GET /livez HTTP/1.1\r\nHost: shop\r\n\r\n"


@dataclass(frozen=True)
class Stopped:
    """An API that was asked to stop while a crowd bought."""

    status: int
    crowd: SteadyCrowd
    counted_in: Path | None
    family: list[psutil.Process]


@asynccontextmanager
async def served(shop: Shop, directory: Path, *, processes: int, **variables: str) -> AsyncIterator[ServedApi]:
    """An API that is there to be stopped."""
    api = await ServedApi.start(shop, directory, processes=processes, **variables)
    try:
        yield api
    finally:
        await api.close()


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two processes"])
async def stopped(
    live_shop: Shop, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> AsyncIterator[Stopped]:
    """An API of one process, or of two, that was asked to stop under load."""
    async with served(live_shop, tmp_path_factory.mktemp("stopped"), processes=request.param) as api:
        sale = await api.open_sale(units=100_000)
        family, counted_in = [api.process, *api.process.children(recursive=True)], api.counted_in
        async with buying(api.shop, sale, connections=CONNECTIONS) as crowd:
            status = await api.stop()
        yield Stopped(status, crowd, counted_in, family)


async def test_a_stop_under_load_fails_no_request(stopped: Stopped) -> None:
    """Every accepted request is answered, the last one of a connection says so, and a later one is refused."""
    crowd = stopped.crowd

    assert (crowd.lost, crowd.unannounced, crowd.refused) == (0, 0, CONNECTIONS)
    assert set(crowd.statuses) == {202}
    await assert_all_recorded(crowd)


async def test_a_stop_under_load_ends_with_status_0_and_leaves_nothing_behind(stopped: Stopped) -> None:
    async def nobody_left() -> bool:
        return not alive(stopped.family)

    assert stopped.status == 0
    await wait_until(nobody_left, reason="every process has ended")
    assert stopped.counted_in is None or not stopped.counted_in.exists()


async def test_a_second_ctrl_c_ends_it_at_once(live_shop: Shop, tmp_path: Path) -> None:
    """The first one lets the request in hand go on."""
    async with served(live_shop, tmp_path, processes=1, SHOP_REQUEST_SECONDS_MAX="60") as api:
        _, writer = await stuck_request(api)
        api.processes.send("api", signal.SIGINT)
        await wait_until(lambda: refuses(api), reason="no connection is accepted any longer")

        assert await api.stop(signal.SIGINT) == -signal.SIGINT

        writer.close()


async def test_a_request_that_does_not_end_does_not_keep_a_stop_waiting(live_shop: Shop, tmp_path: Path) -> None:
    wishes = {"SHOP_REQUEST_SECONDS_MAX": "60", "SHOP_GRACEFUL_STOP_SECONDS": str(GRACEFUL_STOP_SECONDS)}
    async with served(live_shop, tmp_path, processes=1, **wishes) as api:
        _, writer = await stuck_request(api)
        begun = asyncio.get_running_loop().time()

        assert await api.stop() == 0

        assert asyncio.get_running_loop().time() - begun < GRACEFUL_STOP_SECONDS + CLOSING_SECONDS
        writer.close()


async def stuck_request(api: ServedApi) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request that the API has begun to read, and whose end does not come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.shop.settings.api_port)
    writer.write(WHOLE_REQUEST)
    await reader.readuntil(b"ok")
    writer.write(HALF_A_REQUEST)
    await writer.drain()
    return reader, writer


async def refuses(api: ServedApi) -> bool:
    """Whether a connection is refused."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", api.shop.settings.api_port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False
