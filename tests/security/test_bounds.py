"""Whatever a client may send has a bound that the document tells; bytes and time are bounded in `tests/server`."""

from typing import Any

import pytest

from tests.api.answers import problem_of
from tests.harness import Shop, new_user_id
from tests.security.routes import document_of

PAGE_MAX = 100
BOUNDED_FORMATS = {"uuid", "date-time"}


def unbounded(schema: dict[str, Any]) -> bool:
    """Whether a value of this schema may be as large as anybody likes."""
    if "anyOf" in schema:
        return any(unbounded(each) for each in schema["anyOf"])
    match schema.get("type"):
        case "string":
            closed = "enum" in schema or "const" in schema or schema.get("format") in BOUNDED_FORMATS
            return not closed and "maxLength" not in schema and not _bounded_pattern(schema.get("pattern", ""))
        case "integer" | "number":
            return "maximum" not in schema or "minimum" not in schema
        case "array":
            return "maxItems" not in schema or unbounded(schema["items"])
    return False


def _bounded_pattern(pattern: str) -> bool:
    return pattern.startswith("^") and pattern.endswith("$") and "*" not in pattern and "+" not in pattern


async def test_every_member_of_every_body_has_a_bound(shop: Shop) -> None:
    document = await document_of(shop)
    found = {
        f"{name}.{member}"
        for route in document.routes
        for name, schema in document.schemas_of(route)
        for member, of_member in schema.get("properties", {}).items()
        if unbounded(of_member)
    }

    assert found == set()


async def test_every_parameter_of_a_query_has_a_bound_and_a_page_is_at_most_a_hundred(shop: Shop) -> None:
    client = await shop.client()
    lists = 0
    for route in (await document_of(shop)).routes:
        for parameter in route.parameters:
            if parameter["in"] != "query":
                continue
            assert not unbounded(parameter["schema"]), (route.path, parameter["name"])
            if parameter["name"] == "limit":
                lists += 1
                assert parameter["schema"]["maximum"] == PAGE_MAX
                for limit in (PAGE_MAX + 1, 0, -1, 10**30):
                    answer = await client.request(
                        route.method, route.url, params={"limit": limit}, headers=shop.admin_headers()
                    )
                    problem_of(answer, 422, "invalid")
    assert lists >= 5


@pytest.mark.parametrize(
    "deep",
    [b"[" * 1_900, b"[" * 1_000 + b"]" * 1_000, b'{"quantity":' * 150 + b"1" + b"}" * 150],
    ids=["open", "closed", "objects"],
)
async def test_json_that_is_nested_deeply_is_refused_everywhere(shop: Shop, deep: bytes) -> None:
    """A reader that recurses must not fall over it: 400 or 422, and the process goes on."""
    client = await shop.client()
    for route in (await document_of(shop)).routes:
        if route.media_type == "application/json":
            headers = {**shop.admin_headers(), "Content-Type": "application/json", "Idempotency-Key": new_user_id()}
            answer = await client.request(route.method, route.url, headers=headers, content=deep)
            assert answer.status_code in {400, 422}, (route.path, answer.text[:200])
            assert len(answer.content) < 4_096, route.path
