"""Whatever is sent to the API, the answer is one that its OpenAPI document announces, and never a crash.

The requests are made up by schemathesis from the document itself: half of them fit it, half of them do not. They go to
a shop of their own, because they buy, close and block at random. `make fuzz` sends many more.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation

from shop.embedded import EmbeddedServers
from shop.settings import Settings
from tests.api.fuzz.known import CONFIG, FUZZER, known_in
from tests.harness import Shop, create_database
from tests.processes import copy_of, own_shop

EXAMPLES_OF_EACH_KIND = 3
TAGS = ["accounts", "admin", "operator", "orders", "payments", "products", "purchase", "sales"]


@dataclass(frozen=True)
class Fuzzed:
    """A shop to be fuzzed, its document, and things in it that a made-up path would never hit."""

    shop: Shop
    operations: list[APIOperation[Any, Any, Any, Any]]
    known: dict[str, list[object]]


@pytest.fixture(scope="module")
async def fuzzed(
    servers: EmbeddedServers,
    template_database: str,
    live_settings: Settings,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Fuzzed]:
    url = create_database(servers.database_url, "fuzzed", template=template_database)
    settings = copy_of(
        live_settings,
        database_url=url,
        sign_in_per_minute_per_address=1_000_000,
        sign_in_per_minute_per_account=1_000_000,
        sse_seconds_max=0.05,  # an event stream is answered when it ends
    )
    async with own_shop(settings, tmp_path_factory.mktemp("fuzzed"), worker_here=True) as own:
        yield Fuzzed(own.shop, await asyncio.to_thread(_operations, own.shop), await known_in(own.shop))


def _operations(shop: Shop) -> list[APIOperation[Any, Any, Any, Any]]:
    load_all_checks()
    config = schemathesis.Config.from_path(CONFIG)
    schema = schemathesis.openapi.from_url(f"{shop.base_url}/openapi.json", config=config)
    found = list(schema.get_all_operations())
    assert all(isinstance(result, Ok) for result in found)
    return [result.ok() for result in found if isinstance(result, Ok)]


@pytest.mark.parametrize("tag", TAGS)
async def test_no_request_gets_an_answer_that_is_not_documented(fuzzed: Fuzzed, tag: str) -> None:
    """By all checks of schemathesis, with an admin's token: none is a 500, and a bad request is no success."""
    operations = [operation for operation in fuzzed.operations if operation.tags == [tag]]
    assert operations

    await asyncio.to_thread(_fuzz, fuzzed, operations)


async def test_no_operation_is_left_out(fuzzed: Fuzzed) -> None:
    assert sorted({tag for operation in fuzzed.operations for tag in operation.tags or [""]}) == TAGS


def _fuzz(fuzzed: Fuzzed, operations: list[APIOperation[Any, Any, Any, Any]]) -> None:
    """Send made-up requests from a thread: the shop runs in the loop of the tests."""
    headers = fuzzed.shop.headers(FUZZER, role="admin")
    with requests.Session() as session:
        for operation in operations:
            for mode in GenerationMode:
                # What takes nothing can be sent nothing wrong.
                with suppress(*([Unsatisfiable] if mode.is_negative else [])):
                    _examples(fuzzed, operation, mode, headers, session)()


def _examples(
    fuzzed: Fuzzed,
    operation: APIOperation[Any, Any, Any, Any],
    mode: GenerationMode,
    headers: dict[str, str],
    session: requests.Session,
) -> Callable[[], None]:
    @hypothesis.settings(
        max_examples=EXAMPLES_OF_EACH_KIND,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), data=st.data())
    def examples(case: Any, data: st.DataObject) -> None:
        for name, values in fuzzed.known.items():
            if name in (case.path_parameters or {}) and data.draw(st.booleans()):
                case.path_parameters[name] = data.draw(st.sampled_from(values))
        case.call_and_validate(session=session, headers=headers)

    return examples
