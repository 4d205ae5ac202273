"""A page from elsewhere may use the API if its origin is named, and then it sees every header that matters."""

from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import pytest
from pydantic import ValidationError
from starlette.responses import Response

from shop.app.cors import Cors
from shop.sales.models import Sale
from shop.settings import Settings
from tests.api.answers import problem_of
from tests.harness import Shop, new_user_id, outcome, running_shop
from tests.processes import copy_of

ORIGIN = "https://shop.example"
EXPOSED = {
    "age",
    "allow",
    "date",
    "etag",
    "idempotency-replayed",
    "link",
    "location",
    "preference-applied",
    "ratelimit",
    "ratelimit-policy",
    "retry-after",
    "www-authenticate",
    "x-request-id",
}


@pytest.fixture(scope="module")
async def open_to_one(live_shop: Shop) -> AsyncIterator[Shop]:
    """A second API of the running shop that lets one origin in."""
    settings = copy_of(live_shop.settings, cors_origins=[ORIGIN], purchase_rate_per_second=0.1, purchase_burst=3)
    async with running_shop(settings, worker=False) as shop:
        yield shop


@pytest.fixture(scope="module")
async def sale(live_shop: Shop, open_to_one: Shop) -> Sale:
    sale = await live_shop.open_sale(units=3)
    await open_to_one.until_loaded(sale)
    return sale


async def preflight(
    shop: Shop, path: str, *, origin: str = ORIGIN, method: str = "POST", headers: str
) -> httpx.Response:
    client = await shop.client()
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": headers,
    }
    return await client.options(path, headers=asked)


def exposed(answer: httpx.Response) -> set[str]:
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    return {name.strip().lower() for name in answer.headers["access-control-expose-headers"].split(",")}


async def test_a_page_may_send_a_purchase_with_its_headers(open_to_one: Shop, sale: Sale) -> None:
    """The preflight of the lane's own route."""
    wanted = "authorization, content-type, idempotency-key, prefer, traceparent, tracestate, x-request-id"

    answer = await preflight(open_to_one, open_to_one.purchase_path(sale), headers=wanted)

    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    allowed = {name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")}
    assert set(wanted.split(", ")) <= allowed
    assert "POST" in answer.headers["access-control-allow-methods"]


async def test_a_page_sees_the_headers_of_every_answer_of_the_lane(open_to_one: Shop, sale: Sale) -> None:
    """Accepted, repeated, refused and slowed down: CORS is in front of the lane too."""
    client, user = await open_to_one.client(), new_user_id()
    headers = {**open_to_one.headers(user, key="once"), "Origin": ORIGIN}
    seen = []
    for quantity in (1, 1, 0, 2, 1):
        answer = await client.post(open_to_one.purchase_path(sale), headers=headers, json={"quantity": quantity})
        assert exposed(answer) == EXPOSED
        seen.append(outcome(answer))
    assert seen == ["reserved", "replayed", "invalid", "idempotency_mismatch", "rate_limited"]


async def test_a_page_sees_the_headers_of_an_answer_from_memory(live_shop: Shop, open_to_one: Shop) -> None:
    """Sold out is said before the application is asked."""
    sale = await live_shop.open_sale(units=1)
    await open_to_one.until_loaded(sale)
    await open_to_one.bought(sale)
    await open_to_one.until_told(sale, "sold_out")
    client = await open_to_one.client()
    for _ in range(3):
        headers = {**open_to_one.headers(new_user_id()), "Origin": ORIGIN}
        answer = await client.post(open_to_one.purchase_path(sale), headers=headers, json={"quantity": 1})
        assert (outcome(answer), exposed(answer)) == ("sold_out", EXPOSED)


@pytest.mark.parametrize("origins", [[ORIGIN], ["*"]])
@pytest.mark.parametrize("origin", [ORIGIN, "https://evil.example", None])
async def test_what_is_said_before_the_application_has_the_headers_that_are_added_to_its_answers(
    origins: list[str], origin: str | None
) -> None:
    headers = [] if origin is None else [(b"origin", origin.encode())]
    cors = Cors(Response(), Settings(_env_file=None, environment="development", cors_origins=origins))
    transport = httpx.ASGITransport(app=cors)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        answer = await client.get("/", headers=headers)

    added = [header for header in answer.headers.raw if header[0] != b"content-length"]
    assert sorted(cors.answer_headers({"type": "http", "headers": headers})) == sorted(added)


async def test_a_page_sees_the_headers_of_other_routes_and_of_problems(open_to_one: Shop) -> None:
    client, headers = await open_to_one.client(), {**open_to_one.headers(), "Origin": ORIGIN}
    order = f"/v1/orders/{uuid4()}"
    for path in ("/v1/products", "/v1/products/999999999", "/nothing", "/v1/me", "/v1/seckill/sales", order):
        assert exposed(await client.get(path, headers=headers)) == EXPOSED


async def test_an_order_varies_by_its_reader_and_by_its_page_in_one_header(open_to_one: Shop, sale: Sale) -> None:
    user = new_user_id()
    order_id = await open_to_one.bought(sale, user)

    client, headers = await open_to_one.client(), {**open_to_one.headers(user), "Origin": ORIGIN}
    answer = await client.get(f"/v1/orders/{order_id}", headers=headers)

    assert (answer.status_code, answer.headers.get_list("vary")) == (200, ["Authorization, Origin"])


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "https://shop.example.evil.example", "http://shop.example", "null"]
)
async def test_a_page_of_another_origin_is_not_allowed(open_to_one: Shop, sale: Sale, origin: str) -> None:
    path = open_to_one.purchase_path(sale)

    refused = await preflight(open_to_one, path, origin=origin, headers="authorization")
    answer = await (await open_to_one.client()).get("/v1/products", headers={"Origin": origin})

    assert "origin" in problem_of(refused, 400, "origin_refused")["detail"]
    assert "access-control-allow-origin" not in refused.headers
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("asked", "wrong"),
    [({"headers": "x-secret"}, "headers"), ({"method": "TRACE", "headers": "prefer"}, "method")],
)
async def test_a_preflight_that_is_refused_says_why_and_has_an_id(
    open_to_one: Shop, asked: dict[str, str], wrong: str
) -> None:
    refused = await preflight(open_to_one, "/v1/orders", **asked)

    assert wrong in problem_of(refused, 400, "origin_refused")["detail"]
    assert refused.headers["access-control-allow-origin"] == ORIGIN


@pytest.mark.parametrize("path", ["/livez", "/v1/products", "/openapi.json"])
async def test_a_page_may_ask_with_head_and_the_trace_headers(open_to_one: Shop, path: str) -> None:
    asked = await preflight(open_to_one, path, method="HEAD", headers="traceparent,tracestate")
    answer = await (await open_to_one.client()).head(path, headers={"Origin": ORIGIN})

    assert asked.status_code == 204
    assert exposed(answer) == EXPOSED


@pytest.mark.parametrize(
    ("written", "origin"),
    [
        ("https://shop.example/", "https://shop.example"),
        ("HTTPS://Shop.Example", "https://shop.example"),
        ("https://shop.example:443", "https://shop.example"),
        ("http://shop.example:80/", "http://shop.example"),
        ("http://shop.example:443", "http://shop.example:443"),
        (" https://shop.example ", "https://shop.example"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("https://[2001:DB8::0:1]:8443", "https://[2001:db8::1]:8443"),
        ("capacitor://localhost", "capacitor://localhost"),
    ],
)
def test_an_origin_is_compared_as_browsers_write_it(written: str, origin: str) -> None:
    """They send no slash, no default port, no capital and no letter beyond ASCII."""
    settings = Settings(_env_file=None, environment="development", cors_origins=[written, origin])

    assert settings.cors_origins == [origin]


@pytest.mark.parametrize(
    "wrong",
    [
        ["https://shop.example/path"],
        ["https://shop.example?x=1"],
        ["https://shop.example#x"],
        ["https://user@shop.example"],
        ["shop.example"],
        ["//shop.example"],
        ["https://"],
        ["https://*.shop.example"],
        ["https://shop.example:"],
        ["https://shop.example:0"],
        ["https://shop.example:99999"],
        ["https://shop example"],
        ["null"],
        [""],
        ["*", "https://shop.example"],
    ],
)
def test_what_can_never_match_an_origin_stops_the_start(wrong: list[str]) -> None:
    """With the rule, instead of an API that no page can use."""
    with pytest.raises(ValidationError, match="an origin is a scheme and a host"):
        Settings(_env_file=None, environment="development", cors_origins=wrong)


async def test_a_star_lets_every_page_in_and_no_credentials(live_shop: Shop) -> None:
    """Tokens are sent by the page itself; a browser adds nothing of its own."""
    async with running_shop(copy_of(live_shop.settings, cors_origins=["*"]), worker=False) as shop:
        answer = await (await shop.client()).get("/livez", headers={"Origin": "https://any.example"})

    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers


async def test_without_the_setting_no_origin_is_allowed(shop: Shop) -> None:
    answer = await (await shop.client()).get("/v1/products", headers={"Origin": ORIGIN})

    assert not [name for name in answer.headers if name.startswith("access-control")]
