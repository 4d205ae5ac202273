"""Whatever is sent to the API, the answer is one that its OpenAPI document announces, and never a crash.

The requests are made up by schemathesis from the document itself: half of them fit it, half of them do not. They go to
a shop of their own, because they buy, close and block at random.
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
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from shop.embedded import EmbeddedServers
from shop.settings import Settings
from tests.harness import Shop, create_database
from tests.processes import copy_of, own_shop

EXAMPLES_OF_EACH_KIND = 12
TAGS = ["accounts", "admin", "operator", "orders", "payments", "products", "purchase", "sales"]
# The shop's own refusals: not executed, or unknown. Any other 5xx is a failure.
EXPECTED = {"not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "503", "504"]}}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


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
        yield Fuzzed(own.shop, await asyncio.to_thread(_operations, own.shop), await _known(own.shop))


def _operations(shop: Shop) -> list[APIOperation[Any, Any, Any, Any]]:
    load_all_checks()
    config = schemathesis.Config.from_dict({"checks": EXPECTED})
    schema = schemathesis.openapi.from_url(f"{shop.base_url}/openapi.json", config=config)
    found = list(schema.get_all_operations())
    assert all(isinstance(result, Ok) for result in found)
    return [result.ok() for result in found if isinstance(result, Ok)]


async def _known(shop: Shop) -> dict[str, list[object]]:
    """What there is: sales in every state, orders in the ledger and in rows, a product and an account."""
    draft = await shop.draft_sale(units=5, stock=50)
    opened = await shop.open_sale(units=5_000, stock=20_000, units_per_user=5_000)
    coming = await shop.open_sale(units=5, starts_in=3_600)
    closed = await shop.open_sale(units=5)
    await shop.change(closed, "close")
    orders: list[object] = [await shop.bought(opened, "fuzzer", key=str(number)) for number in range(3)]
    account = await (await shop.client()).get("/v1/me", headers=await shop.sign_up())
    return {
        "sale_id": [draft.id, opened.id, coming.id, closed.id],
        "order_id": orders,
        "product_id": [draft.product_id, opened.product_id],
        "user_id": [account.json()["id"]],
        "code": ["sold_out", "not_found"],
    }


@pytest.mark.parametrize("tag", TAGS)
async def test_no_request_gets_an_answer_that_is_not_documented(fuzzed: Fuzzed, tag: str) -> None:
    """Status, content type, headers and schema of every answer are those of the document, and none is a 500."""
    operations = [operation for operation in fuzzed.operations if operation.tags == [tag]]
    assert operations

    await asyncio.to_thread(_fuzz, fuzzed, operations)


async def test_no_operation_is_left_out(fuzzed: Fuzzed) -> None:
    assert sorted({tag for operation in fuzzed.operations for tag in operation.tags or [""]}) == TAGS


def _fuzz(fuzzed: Fuzzed, operations: list[APIOperation[Any, Any, Any, Any]]) -> None:
    """Send made-up requests from a thread: the shop runs in the loop of the tests."""
    headers = {
        "admin": fuzzed.shop.admin_headers(),
        "shopper": fuzzed.shop.headers("fuzzer"),
    }
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
    headers: dict[str, dict[str, str]],
    session: requests.Session,
) -> Callable[[], None]:
    role = "admin" if operation.tags == ["admin"] else "shopper"

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
        case.call_and_validate(session=session, headers=headers[role], checks=CHECKS)

    return examples
