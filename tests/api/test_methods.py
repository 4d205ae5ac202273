"""HEAD is GET without its body, and every path says which methods it has."""

import re
from typing import Any

import httpx
import pytest

from shop.metrics_page import serve_metrics
from tests.api.answers import problem_of
from tests.harness import Shop, new_user_id, wait_until
from tests.ports import unused_port
from tests.server.raw import exchange

FIXED = ["/livez", "/readyz", "/version", "/openapi.json", "/docs", "/redoc", "/errors/sold_out"]
LISTS = ["/v1/products", "/v1/products/999999999", "/v1/seckill/sales", "/v1/me", "/v1/nothing"]
CHANGES_EACH_TIME = {"date", "x-request-id"}


def lasting(headers: httpx.Headers) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in CHANGES_EACH_TIME}


@pytest.mark.parametrize("path", [*FIXED, *LISTS, "/static-offline-docs/swagger-ui.css"])
async def test_head_is_get_without_its_body(shop: Shop, path: str) -> None:
    """The same status and headers, the length of what GET would send too; problems as well."""
    client = await shop.client()

    async def both() -> tuple[httpx.Response, httpx.Response] | None:
        """The list of sales tells how many seconds are left, so its length may change by a digit between the two."""
        got, headed = await client.get(path), await client.head(path)
        return (got, headed) if headed.headers["content-length"] == str(len(got.content)) else None

    got, headed = await wait_until(both, reason="HEAD tells the length of GET")

    assert headed.status_code == got.status_code
    assert headed.content == b""
    assert lasting(headed.headers) == lasting(got.headers)
    assert got.content


async def test_every_route_with_get_has_head_and_names_its_methods(shop: Shop) -> None:
    """Over the OpenAPI document: 405 names each method that the path has, and OPTIONS says the same."""
    client = await shop.client()
    document: dict[str, Any] = (await client.get("/openapi.json")).json()
    for template, operations in document["paths"].items():
        path = re.sub(r"\{[^}]+\}", "1", template)
        methods = {method.upper() for method in operations if method != "parameters"}
        expected = methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())
        refused = await client.request("PROPFIND", path)
        options = await client.options(path)

        assert (refused.status_code, refused.json()["code"]) == (405, "method_not_allowed"), template
        allowed = set(refused.headers["allow"].split(", "))
        assert expected <= allowed, template
        # `…/dead` is also an id of `…/{webhook_id}`, for the router.
        assert 405 not in {(await client.request(method, path)).status_code for method in allowed - expected}, template
        assert (options.status_code, options.content) == (204, b"")
        assert options.headers["allow"] == refused.headers["allow"], template
        headed = await client.head(path)
        assert (headed.status_code != 405) is ("GET" in methods), template


async def test_options_of_nothing_is_not_found(shop: Shop) -> None:
    problem_of(await (await shop.client()).options("/v1/nothing"), 404, "not_found")


async def test_a_path_beside_one_with_an_id_has_its_own_methods_alone(shop: Shop) -> None:
    """`dead` is no webhook: nothing of a body or of an id is judged before the method."""
    client = await shop.client()
    for method in ("PATCH", "DELETE", "POST", "PUT"):
        answer = await client.request(method, "/v1/admin/webhooks/dead", headers=shop.admin_headers())
        problem_of(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == "GET, HEAD, OPTIONS"
    assert (await client.get("/v1/admin/webhooks/dead", headers=shop.admin_headers())).status_code == 200
    problem_of(await client.get("/v1/admin/webhooks/deadly", headers=shop.admin_headers()), 422, "invalid")


async def test_head_of_an_event_stream_ends(shop: Shop) -> None:
    """It has no length, and its connection may be used again."""
    sale = await shop.open_sale(units=1)
    user = new_user_id()
    order_id = await shop.bought(sale, user)
    token = shop.token(user).encode()
    lines = [
        b"HEAD /v1/orders/%b/events HTTP/1.1" % order_id.encode(),
        b"Host: shop",
        b"Authorization: Bearer " + token,
    ]

    answer = await exchange(shop, b"\r\n".join(lines) + b"\r\n\r\n", "HEAD")

    assert (answer.status, answer.closes) == (200, False)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "content-length" not in answer.headers


async def test_head_of_the_metrics_is_get_without_its_body() -> None:
    port = unused_port()
    serve_metrics("127.0.0.1", port)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        got, headed = await client.get("/metrics"), await client.head("/metrics")
        refused = await client.post("/metrics")

    assert (got.status_code, headed.status_code) == (200, 200)
    assert got.content
    assert headed.content == b""
    assert headed.headers["content-type"] == got.headers["content-type"]
    assert int(headed.headers["content-length"]) > 0
    assert got.headers["x-content-type-options"] == headed.headers["x-content-type-options"] == "nosniff"
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


@pytest.mark.parametrize("path", ["/v1/products/", "/livez/", "/v1/seckill/sales/1/orders/", "/docs/"])
async def test_a_slash_too_many_is_not_found_and_leads_nowhere(shop: Shop, path: str) -> None:
    """No redirect follows the Host that a client sends."""
    answer = await (await shop.client()).get(path, headers={"Host": "evil.example"})

    problem_of(answer, 404, "not_found")
    assert "location" not in answer.headers
