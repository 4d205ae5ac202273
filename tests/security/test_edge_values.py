"""A time, a number and a text that nothing behind the edge could hold are 422 where they come in, on every route.

What comes in is read from the OpenAPI document, so a new member is covered without being named.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import UUID

import pytest

from tests.api.answers import problem_of
from tests.harness import Shop, keyed, new_user_id
from tests.security.routes import Document, Route, document_of

TIMES = (
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+23:59",
    "1999-12-31T23:59:59.999Z",
    "9000-01-01T00:00:00Z",
    "9999-12-31T23:59:59.9999999Z",
    "9999-12-31T23:59:59-23:59",
    "10000-01-01T00:00:00Z",
    "infinity",
    "-infinity",
    "2030-01-01",
    "1893456000",
    1893456000,
    1e300,
)
NUMBERS = (2**53, 2**63, -(2**63) - 1, 10**30)
# A terminator, a terminal's command, a turn of the direction, a line's end, and what nobody sees.
SIGNS = "\x00\x9b\u202e\u2066\u200f\u2028\u200b\ufeff\u00ad\ufdd0\ue000"


class Member(NamedTuple):
    """A member of a body, as the steps that lead to it (`0` goes into a list), and its schema."""

    steps: tuple[str | int, ...]
    schema: dict[str, Any]

    def body(self, value: Any) -> Any:
        """A body in which this member alone has a value."""
        for step in reversed(self.steps):
            value = [value] if step == 0 else {step: value}
        return value


def members(document: Document, schema: dict[str, Any], *steps: str | int) -> Iterator[Member]:
    """The members of a body that hold one value, however deep."""
    if "$ref" in schema:
        schema = document.content["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for choice in schema.get("anyOf", []):
        yield from members(document, choice, *steps)
    if schema.get("type") == "object":
        for name, of_member in schema.get("properties", {}).items():
            yield from members(document, of_member, *steps, name)
    elif schema.get("type") == "array":
        yield from members(document, schema["items"], *steps, 0)
    elif "type" in schema:
        yield Member(steps, schema)


def outside(schema: dict[str, Any]) -> list[Any]:
    """Values that a schema must refuse."""
    if schema["type"] in {"integer", "number"}:
        least, most = int(schema["minimum"]), int(schema["maximum"])
        return [least - 1, most + 1, *(number for number in NUMBERS if not least <= number <= most)]
    if schema.get("format") == "date-time":
        return list(TIMES)
    if schema["type"] == "string" and schema.get("format") != "password":
        return [f"a{sign}b" for sign in SIGNS]
    return []


async def send(shop: Shop, route: Route, body: Any) -> Any:
    kind = "data" if route.media_type == "application/x-www-form-urlencoded" else "json"
    client, headers = await shop.client(), keyed(shop.admin_headers())
    return await client.request(route.method, route.url, headers=headers, **{kind: body})


async def test_what_lies_outside_is_refused_in_every_member_of_every_body(shop: Shop) -> None:
    document = await document_of(shop)
    seen: set[str] = set()
    for route in document.routes:
        for schema in (each["schema"] for each in route.body.values()):
            for member in members(document, schema):
                for value in outside(member.schema):
                    answer = await send(shop, route, member.body(value))
                    assert answer.status_code == 422, (route.path, value, answer.text)
                    problem = answer.json()
                    named = [each["pointer"] for each in problem.get("errors", [])]
                    pointer = "/" + "/".join(map(str, member.steps))
                    assert problem["code"] != "invalid" or [each for each in named if each.endswith(pointer)], (
                        route.path,
                        value,
                        named,
                    )
                    seen.add(f"{route.method} {route.path} {pointer} {member.schema.get('format')}")

    assert len(seen) >= 30
    assert len([each for each in seen if each.endswith("date-time")]) >= 6


async def test_what_lies_outside_is_refused_in_every_query_and_every_path(shop: Shop) -> None:
    client, seen = await shop.client(), 0
    for route in (await document_of(shop)).routes:
        for parameter in route.parameters:
            place, name = parameter["in"], parameter["name"]
            schema = next((each for each in parameter["schema"].get("anyOf", []) if each["type"] != "null"), None)
            schema = schema or parameter["schema"]
            for value in outside(schema) if place in {"query", "path"} else []:
                url = route.path_with(name, quote(str(value))) if place == "path" else route.url
                query = {name: value} if place == "query" else {}
                answer = await client.request(
                    route.method, url, params=query, headers=keyed(shop.admin_headers()), json={}
                )
                assert answer.status_code in ({422} if schema["type"] != "string" else {404, 422}), (url, value)
                seen += 1

    assert seen >= 100


@pytest.mark.parametrize("written", ["+{}", "0{}", "{}.0", "{}e0", "%20{}", "{}%20", "%2B{}", "wide", "0x{}"])
async def test_an_id_has_one_form_in_every_path(shop: Shop, written: str) -> None:
    """Whatever is behind it: it is as one that nobody has, or no number at all, and never a sale that is not ready."""
    client, seen = await shop.client(), 0
    sale = await shop.open_sale(units=5)
    wide = "".join(chr(0xFF10 + int(digit)) for digit in str(sale.id))
    for route in (await document_of(shop)).routes:
        for parameter in route.parameters:
            if parameter["in"] == "path" and parameter["schema"]["type"] == "integer":
                text = wide if written == "wide" else written.format(sale.id)
                url = route.path_with(parameter["name"], text)
                answer = await client.request(
                    route.method, url, headers=keyed(shop.admin_headers()), json={"quantity": 1}
                )
                assert answer.status_code == (422 if written == "0x{}" else 404), (url, answer.text)
                seen += 1

    assert seen >= 15
    assert (await shop.row(sale)).changes == 0


@pytest.mark.parametrize("written", ["{0.hex}", "urn:uuid:{0}", "%7B{0}%7D"])
async def test_an_id_that_is_a_uuid_has_one_form_in_every_path(shop: Shop, written: str) -> None:
    sale = await shop.open_sale(units=5)
    order_id = await shop.bought(sale, user := new_user_id())
    await shop.drained(sale)
    client = await shop.client()
    plain, capital = f"/v1/orders/{order_id}", f"/v1/orders/{order_id.upper()}"

    answers = [await client.get(url, headers=shop.headers(user)) for url in (plain, capital)]
    other = await client.get("/v1/orders/" + written.format(UUID(order_id)), headers=shop.headers(user))

    assert [answer.status_code for answer in answers] == [200, 200]
    problem_of(other, 404, "not_found")
