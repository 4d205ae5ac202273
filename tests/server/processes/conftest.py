"""One `shop api --processes 2` for the tests that leave it as they found it: with two processes that serve."""

from collections.abc import AsyncIterator

import pytest

from shop.metrics import MULTIPROCESS_VARIABLE
from tests.api.conftest import retired_sales
from tests.harness import Shop
from tests.server.processes.served import ServedApi

__all__ = ["retired_sales"]


@pytest.fixture(scope="module")
async def pool(live_shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServedApi]:
    """An API of two processes that count where they are told to."""
    directory = tmp_path_factory.mktemp("pool")
    (directory / "metrics").mkdir()
    variables = {MULTIPROCESS_VARIABLE: str(directory / "metrics")}
    served = await ServedApi.start(live_shop, directory, processes=2, **variables)
    yield served
    await served.close()
