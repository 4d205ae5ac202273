"""A time, a number and a text that nothing behind the edge could hold are 422 where they come in, on every route.

What comes in is read from the OpenAPI document, so a new member is covered without being named. Each request has wrong
values in all places at once, and the answer must name each of them.
"""

from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Any, TypeVar
from urllib.parse import quote

from tests.api.answers import problem_of
from tests.harness import Shop, keyed, new_user_id
from tests.security.routes import Document, document_of

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
SIGNS = "\x00\x9b\u202e\u2066\u2028\u200b\ufdd0"

Place = TypeVar("Place", bound=Hashable)


def members(document: Document, schema: dict[str, Any], *steps: str | int) -> Iterator[tuple[str, dict[str, Any]]]:
    """The members of a body that hold one value, however deep: pointer and schema."""
    schema = document.resolved(schema)
    for choice in schema.get("anyOf", []):
        yield from members(document, choice, *steps)
    for name, of_member in schema.get("properties", {}).items():
        yield from members(document, of_member, *steps, name)
    if "items" in schema:
        yield from members(document, schema["items"], *steps, 0)
    if outside(schema):
        yield "/" + "/".join(map(str, steps)), schema


def outside(schema: dict[str, Any]) -> list[Any]:
    """Values that a schema must refuse."""
    if schema.get("type") in {"integer", "number"}:
        least, most = int(schema["minimum"]), int(schema["maximum"])
        return [least - 1, most + 1, *(number for number in NUMBERS if not least <= number <= most)]
    if schema.get("format") == "date-time":
        return list(TIMES)
    if schema.get("type") == "string" and not {"enum", "const"} & schema.keys() and schema.get("format") != "password":
        return [f"a{sign}b" for sign in SIGNS]
    return []


def put(body: dict[str, Any], pointer: str, value: Any) -> None:
    """Give the member of a body a value, and make the lists and objects around it."""
    *parents, last = pointer[1:].split("/")
    place: Any = body
    for name, following in zip(parents, [*parents, last][1:], strict=True):
        if isinstance(place, list):
            place += [] if place else [{}]
            place = place[0]
        else:
            place = place.setdefault(name, [] if following == "0" else {})
    if isinstance(place, list):
        place.append(value)
    else:
        place[last] = value


def rounds(places: dict[Place, dict[str, Any]]) -> Iterator[dict[Place, Any]]:
    """Wrong values for all places at once, until each has had each of its own."""
    values = {place: outside(schema) for place, schema in places.items()}
    for number in range(max(map(len, values.values()), default=0)):
        yield {place: those[number % len(those)] for place, those in values.items()}


async def test_what_lies_outside_is_refused_in_every_member_of_every_body(shop: Shop) -> None:
    document, client = await document_of(shop), await shop.client()
    formats: Counter[str | None] = Counter()
    for route in document.routes:
        kind = "data" if route.media_type == "application/x-www-form-urlencoded" else "json"
        for schema in (each["schema"] for each in route.body.values()):
            places = dict(members(document, schema))
            formats += Counter(each.get("format") for each in places.values())
            for values in rounds(places):
                body: dict[str, Any] = {}
                for pointer, value in values.items():
                    put(body, pointer, value)
                headers, sent = keyed(shop.admin_headers()), dict[str, Any]({kind: body})
                answer = await client.request(route.method, route.url, headers=headers, **sent)
                assert answer.status_code == 422, (route.path, values, answer.text)
                if answer.json()["code"] == "invalid":
                    named = {each["pointer"] for each in answer.json()["errors"]}
                    # Where a rule of the whole body is broken, it stands for its members.
                    assert named >= values.keys() or named == {""}, (route.path, values, named)

    assert formats.total() >= 30
    assert formats["date-time"] >= 6


async def test_what_lies_outside_is_refused_in_every_query_and_every_path(shop: Shop) -> None:
    document, client = await document_of(shop), await shop.client()
    seen = 0
    for route in document.routes:
        places: dict[tuple[str, str], dict[str, Any]] = {}
        for parameter in route.parameters:
            schema = document.resolved(parameter["schema"])
            schema = next((each for each in schema.get("anyOf", []) if outside(each)), schema)
            if parameter["in"] in {"query", "path"} and outside(schema):
                places[parameter["in"], parameter["name"]] = schema
        seen += len(places)
        for values in rounds(places):
            url = route.path_with({name: quote(str(value)) for (part, name), value in values.items() if part == "path"})
            query = {name: value for (part, name), value in values.items() if part == "query"}
            headers = keyed(shop.admin_headers())
            answer = await client.request(route.method, url, params=query, headers=headers, json={})
            if ("path", "string") in {(part, places[part, name]["type"]) for part, name in places}:
                assert answer.status_code in {404, 422}, (url, answer.text)
            else:
                assert answer.status_code == 422, (url, query, answer.text)
                named = {each["pointer"] for each in answer.json()["errors"]}
                assert named >= {f"/{name}" for _, name in values}, (url, query, named)

    assert seen >= 25


async def test_an_id_has_one_form_in_every_path(shop: Shop) -> None:
    """Whatever is behind it: it is as one that nobody has, or no number at all, and never a sale that is not ready."""
    client, seen = await shop.client(), 0
    sale = await shop.open_sale(units=5)
    wide = "".join(chr(0xFF10 + int(digit)) for digit in str(sale.id))
    written = [form.format(sale.id) for form in ("+{}", "%2B{}", "0{}", "{}.0", "{}e0", "%20{}", "{}%20", "0x{}")]
    for route in (await document_of(shop)).routes:
        ids = [each for each in route.parameters if each["in"] == "path" and each["schema"].get("type") == "integer"]
        for text in [*written, wide] if ids else []:
            headers = keyed(shop.admin_headers())
            url = route.path_with({each["name"]: text for each in ids})
            answer = await client.request(route.method, url, headers=headers, json={"quantity": 1})
            assert answer.status_code == (422 if text.startswith("0x") else 404), (url, answer.text)
            seen += 1

    assert seen >= 100
    assert (await shop.row(sale)).changes == 0


async def test_an_id_that_is_a_uuid_has_one_form_in_every_path(shop: Shop) -> None:
    """Letters may be large; braces, `urn:uuid:` and digits without hyphens name nothing."""
    sale = await shop.open_sale(units=5)
    order_id = await shop.bought(sale, user := new_user_id())
    await shop.drained(sale)
    client, seen = await shop.client(), 0
    for text, status in ((order_id, 200), (order_id.upper(), 200), (order_id.replace("-", ""), 404)):
        answer = await client.get(f"/v1/orders/{text}", headers=shop.headers(user))
        assert answer.status_code == status, text
    for route in (await document_of(shop)).routes:
        ids = [each for each in route.parameters if each["in"] == "path" and each["schema"].get("format") == "uuid"]
        for form in ("urn:uuid:{}", "%7B{}%7D") if ids else ():
            url = route.path_with({each["name"]: form.format(order_id) for each in ids})
            answer = await client.request(route.method, url, headers=keyed(shop.admin_headers()), json={})
            problem_of(answer, 404, "not_found")
            seen += 1

    assert seen >= 10
