"""The lane in front and the ordinary routes read a body by the same rules, and say the same of one that is wrong."""

import re
from typing import Any

import httpx

from shop.sales.models import Sale
from tests.api.answers import problem_of
from tests.harness import Shop, new_user_id
from tests.security.routes import document_of

JSON = "application/json"
# What only those who wrote the shop would understand.
PYTHON = re.compile(r"Input should|dictionary|instance of|\b(None|True|False|int|str|bool|float)\b|`|<class")
# What is sent in place of the member: `quantity` of a purchase, `delta` of a change of stock.
VALUES = ["1.0", "1e0", '"1"', "true", "null", "[1]", "{}", "1.5", '""', '"a"', "1" + "0" * 30, "-1" + "0" * 30]
BODIES = {
    "byte order mark": b'\xef\xbb\xbf{"MEMBER":1}',
    "UTF-16": '{"MEMBER":1}'.encode("utf-16"),
    "UTF-8 cut": b'{"MEMBER":"\xff"}',
    "half a surrogate pair": b'{"MEMBER":"\\ud800"}',
    "empty": b"",
    "blank": b"  ",
    "half": b'{"MEMBER":1',
    "more than one": b'{"MEMBER":1}{}',
    "NaN": b'{"MEMBER":NaN}',
    "infinity": b'{"MEMBER":-Infinity}',
    "larger than a double": b'{"MEMBER":1e400}',
    "three thousand digits": b'{"MEMBER":1' + b"0" * 3_000 + b"}",
    "leading zero": b'{"MEMBER":01}',
    "comment": b'{"MEMBER":1/**/}',
    "single quotes": b"{'MEMBER':1}",
    "deep": b"[" * 1_500 + b"]" * 1_500,
    "array": b'[{"MEMBER":1}]',
    "empty array": b"[]",
    "null": b"null",
    "text": b'"MEMBER"',
    "number": b"1",
    "true": b"true",
    "unknown member": b'{"MEMBER":1,"colour":"red"}',
    "two unknown members": b'{"MEMBER":1,"a/b":1,"c~d":2}',
    "other case": b'{"MEMBER":1,"MeMbEr":1}',
    "unknown member with a long name": b'{"MEMBER":1,"' + b"x" * 1_500 + b'":1}',
    "wrong value in the second of two": b'{"MEMBER":1,"MEMBER":"a"}',
    **{f"value {value[:8]}": b'{"MEMBER":%b}' % value.encode() for value in VALUES},
}
MEDIA_TYPES = [
    "text/plain",
    "text/json",
    "application/vnd.api+json",
    "application/jsonx",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/octet-stream",
    "*/*",
    "application",
    ";",
    "",
]
GOOD_MEDIA_TYPES = [JSON, "application/json; charset=utf-8", "APPLICATION/JSON;x=y", "application/json ; q", None]


async def bought(shop: Shop, sale: Sale, body: bytes, media_type: str | None = JSON, **also: str) -> httpx.Response:
    headers = shop.headers() | also | ({} if media_type is None else {"Content-Type": media_type})
    return await (await shop.client()).post(
        shop.purchase_path(sale), content=body.replace(b"MEMBER", b"quantity"), headers=headers
    )


async def stocked(shop: Shop, sale: Sale, body: bytes, media_type: str | None = JSON) -> httpx.Response:
    headers = shop.admin_headers() | {"Idempotency-Key": new_user_id()}
    headers |= {} if media_type is None else {"Content-Type": media_type}
    return await (await shop.client()).post(
        f"/v1/admin/products/{sale.product_id}/stock", content=body.replace(b"MEMBER", b"delta"), headers=headers
    )


def said(answer: httpx.Response) -> dict[str, Any]:
    """What a refusal says, but for whom it is said to, the name of the member and its bounds."""
    document: dict[str, Any] = answer.json()
    assert answer.status_code == document["status"]
    text = re.sub(r"quantity|delta", "MEMBER", str({**document, "instance": "", "request_id": ""}))
    return {"said": re.sub(r"at (least|most) -?[0-9]+", r"at \1 N", text)}


async def test_the_lane_and_the_routes_say_the_same_of_a_bad_body(shop: Shop) -> None:
    """Status, code, detail and every entry of `errors`; and nothing in them is Python's."""
    sale = await shop.open_sale(units=100)
    for kind, body in BODIES.items():
        lane, route = await bought(shop, sale, body), await stocked(shop, sale, body)
        assert lane.status_code in {400, 422}, (kind, lane.text)
        assert said(lane) == said(route), kind
        assert len(lane.content) < 1_000, kind
        assert not PYTHON.search(lane.text), lane.text


async def test_a_body_of_another_media_type_is_415_in_the_lane_and_on_the_routes(shop: Shop) -> None:
    sale = await shop.open_sale(units=100)
    for media_type in MEDIA_TYPES:
        lane = await bought(shop, sale, b'{"MEMBER":1}', media_type)
        route = await stocked(shop, sale, b'{"MEMBER":1}', media_type)
        problem_of(lane, 415, "unsupported_media_type")
        assert said(lane) == said(route)


async def test_json_is_taken_with_any_parameters_and_without_a_media_type(shop: Shop) -> None:
    """RFC 8259: a parameter changes nothing. Of two members of one name the last counts."""
    sale = await shop.open_sale(units=100)
    for media_type in GOOD_MEDIA_TYPES:
        for body in (b'{"MEMBER":1}', b'{"MEMBER":9,"MEMBER":1}', b' { "MEMBER" : 1 } \n'):
            assert (await bought(shop, sale, body, media_type)).status_code == 202, media_type
            assert (await stocked(shop, sale, body, media_type)).status_code == 200, media_type


async def test_who_asks_is_looked_at_before_what_they_ask(shop: Shop) -> None:
    """But a media type that nobody reads is told to everybody."""
    sale = await shop.open_sale(units=1)
    client = await shop.client()
    for path in (shop.purchase_path(sale), f"/v1/admin/products/{sale.product_id}/stock"):
        for body in (b"{", b"[]", b'{"colour":"red"}'):
            headers = {"Content-Type": JSON, "Idempotency-Key": "k"}
            problem_of(await client.post(path, content=body, headers=headers), 401, "unauthorized")
        answer = await client.post(path, content=b"{}", headers={"Content-Type": "text/plain"})
        problem_of(answer, 415, "unsupported_media_type")


async def test_a_form_is_taken_as_a_form_only(shop: Shop) -> None:
    client = await shop.client()
    for media_type in (JSON, "multipart/form-data; boundary=x", "text/plain"):
        answer = await client.post("/v1/auth/token", content=b"{}", headers={"Content-Type": media_type})
        problem_of(answer, 415, "unsupported_media_type")


async def test_every_part_of_a_request_is_named_in_the_same_way(shop: Shop) -> None:
    """`in` says which part, `pointer` leads into it (RFC 6901)."""
    client = await shop.client()
    admin = shop.admin_headers()
    order_id = "00000000-0000-8000-8000-000000000001"
    lines = {"lines": [{"product_id": 1, "quantity": 1}, {"product_id": 2, "quantity": 0, "a/b": 1}]}
    key = {"Idempotency-Key": "k"}
    asked = {
        ("path", "/product_id"): await client.get("/v1/products/x"),
        ("query", "/limit"): await client.get("/v1/products?limit=0"),
        ("header", "/Receipt"): await client.get(f"/v1/orders/{order_id}", headers=admin | {"Receipt": "x" * 1_025}),
        ("body", "/lines/1/quantity"): await client.post("/v1/orders", json=lines, headers=admin | key),
        ("body", "/lines/1/a~1b"): await client.post("/v1/orders", json=lines, headers=admin | key),
        ("body", "/username"): await client.post("/v1/auth/token", data={"password": "x"}),
    }

    for place, answer in asked.items():
        errors = problem_of(answer, 422, "invalid")["errors"]
        assert place in [(each["in"], each["pointer"]) for each in errors], errors


async def test_every_route_reads_its_body_by_these_rules(shop: Shop) -> None:
    """By the document, so that a new one is among them."""
    client = await shop.client()
    routes = [route for route in (await document_of(shop)).routes if route.media_type == JSON]
    assert len(routes) >= 11
    for route in routes:
        for status, body, media_type in (
            (400, BODIES["byte order mark"], JSON),
            (400, BODIES["NaN"], JSON),
            (400, b"", JSON),
            (415, b"{}", "text/plain"),
            (422, b"[]", JSON),
            (422, b"null", JSON),
        ):
            if body in (b"", b"null") and not route.body_required:
                continue
            headers = shop.admin_headers() | {"Idempotency-Key": new_user_id(), "Content-Type": media_type}
            answer = await client.request(route.method, route.url, content=body, headers=headers)
            assert answer.status_code == status, (route.path, body, answer.text)
            assert not PYTHON.search(answer.text), answer.text
