"""The API of these tests is a process of its own, as in production; a test's client does not share its loop."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from shop.settings import Settings
from tests.api.conftest import retired_sales
from tests.harness import Shop
from tests.ports import unused_port
from tests.processes import Processes, copy_of

__all__ = ["retired_sales"]

REQUEST_SECONDS_MAX = 1.0
CUT_SECONDS_MAX = REQUEST_SECONDS_MAX + 3.0


@pytest.fixture(scope="module")
def api(live_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Where the API runs. It waits one second for a request, and has no gate: a storm is refused elsewhere."""
    settings = copy_of(
        live_settings,
        api_port=unused_port(),
        request_seconds_max=REQUEST_SECONDS_MAX,
        overload_delay_seconds=10.0,
    )
    processes = Processes(settings, tmp_path_factory.mktemp("connections"))
    yield processes
    processes.end_all()


@pytest.fixture(scope="module")
async def served_shop(live_shop: Shop, api: Processes) -> AsyncIterator[Shop]:
    """The running shop, reached through that process."""
    address = await api.start_api()
    found = replace(live_shop, settings=api.settings, base_url=address, clients=[])
    yield found
    await (await found.client()).aclose()


@asynccontextmanager
async def hurried(live_shop: Shop, directory: Path, **changes: object) -> AsyncIterator[Shop]:
    """An API process that lets no purchase wait for longer than a moment."""
    settings = copy_of(live_shop.settings, api_port=unused_port(), overload_delay_seconds=0.0005, **changes)
    processes = Processes(settings, directory)
    found = replace(live_shop, settings=settings, base_url=await processes.start_api(), clients=[])
    try:
        yield found
        await (await found.client()).aclose()
    finally:
        processes.end_all()


@pytest.fixture
def shop(served_shop: Shop) -> Shop:
    """The running shop, reached through that process."""
    return served_shop


@pytest.fixture(autouse=True)
def nothing_unforeseen(api: Processes) -> Iterator[None]:
    """Whatever a client sends, the process has nothing to say about it as an error."""
    before = len(api.log("api"))
    yield
    assert api.log("api")[before:] == ""
