"""What an operator sees: whether a shop is alive and ready, what it counts, and how it says that something is wrong."""

import asyncio
import re
from functools import partial
from html import escape
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

import httpx
import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from sqlalchemy import event, text

from shop.advice import ADVICE
from shop.app.context import METHODS, UNMATCHED
from shop.metrics_page import serve_metrics
from shop.problem_json import problem_of_status, refusals
from shop.readiness import Readiness, details
from shop.settings import Settings
from shop.worker import running_worker
from tests.api.answers import problem_of
from tests.harness import Shop, new_user_id, outcome, running_shop, wait_until
from tests.ports import unused_port
from tests.processes import copy_of, own_shop
from tests.recovery.losses import until_sold

CHECKS = {"postgres", "migrations", "redis", "scripts", "durability"}


async def get(shop: Shop, path: str, **headers: str) -> httpx.Response:
    return await (await shop.client()).get(path, headers=headers)


async def not_ready(shop: Shop) -> dict[str, str]:
    """The reasons why a shop is not ready; empty when it is."""
    answer = await get(shop, "/readyz")
    body = answer.json()
    assert set(body["checks"]) == CHECKS
    reasons = {name: reason for name, reason in body["checks"].items() if reason != "ok"}
    assert (answer.status_code, body["status"]) == ((503, "not ready") if reasons else (200, "ready"))
    return reasons


def purchases(outcome: str) -> float:
    """How many purchases ended so, as the metrics of this process say."""
    return REGISTRY.get_sample_value("shop_purchases_total", {"outcome": outcome}) or 0


async def until_ready(shop: Shop) -> None:
    async def ready() -> bool:
        return not await not_ready(shop)

    await wait_until(ready, reason="the shop is ready")


async def test_the_first_page_says_what_this_is_and_leads_only_to_places_that_are_there(shop: Shop) -> None:
    """To a program as JSON, to a browser as a page with the same places; HEAD is the same without a body."""
    await until_ready(shop)
    client = await shop.client()
    told = (await get(shop, "/")).json()
    page = await get(shop, "/", accept="text/html,application/xhtml+xml;q=0.9,*/*;q=0.8")
    document = (await get(shop, "/openapi.json")).json()

    assert (told["name"], "flash-sale" in told["about"]) == ("Shop", True)
    assert page.headers["content-type"].startswith("text/html")
    assert all(f'href="{place}"' in page.text for place in told["places"].values())
    assert set(told["places"].values()) <= document["paths"].keys() | {"/docs", "/openapi.json"}
    for place in ("/docs", "/openapi.json", "/readyz"):
        assert (await get(shop, place)).status_code == 200
    head = await client.head("/")
    assert (head.status_code, head.content, head.headers["content-type"]) == (200, b"", "application/json")


async def test_a_shop_that_can_sell_is_alive_and_ready(shop: Shop) -> None:
    assert (await get(shop, "/livez")).json() == {"status": "ok"}
    await until_ready(shop)
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", (await get(shop, "/version")).json()["version"])


async def test_a_shop_without_a_worker_is_not_ready_and_heals_when_one_comes_and_when_redis_comes_back(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """Only the controller loads scripts. A killed Redis is 503 for everyone, and nothing that was accepted is lost."""
    async with own_shop(fresh_settings, tmp_path) as own:
        shop = own.shop
        assert "worker" in (await not_ready(shop)).pop("scripts")

        async with running_worker(shop.settings):
            await until_ready(shop)
            sale = await shop.open_sale(units=3)
            user = new_user_id()
            won = (await shop.buy(sale, user, key="won")).json()
            own.valkey.kill()

            assert set(await not_ready(shop)) == {"redis", "scripts", "durability"}
            assert (await get(shop, "/livez")).status_code == 200
            assert (await get(shop, f"/v1/seckill/sales/{sale.id}")).status_code == 200
            counted = {code: purchases(code) for code in ("not_ready", "unknown_outcome")}
            refused = await shop.buy(sale)
            code = "not_ready" if refused.status_code == 503 else "unknown_outcome"
            problem_of(refused, refused.status_code, code)

            async def seen() -> bool:
                return purchases(code) > counted[code]

            await wait_until(seen, reason="the operator sees the refusal while Redis is away")

            own.valkey.start()
            await until_ready(shop)
            again = await shop.buy(sale, user, key="won")
            assert (again.status_code, again.json()) == (200, won)
            await until_sold(shop, sale)  # once its ledger was compared
            await shop.drained(sale)
            assert (await shop.audit(sale)).balanced


async def test_a_redis_that_may_forget_orders_is_not_ready(fresh_settings: Settings, tmp_path: Path) -> None:
    """F5: eviction, or no append-only file; the reason says which."""
    async with own_shop(fresh_settings, tmp_path, worker_here=True) as own:
        await until_ready(own.shop)
        await own.shop.redis.config_set("maxmemory-policy", "allkeys-lru")
        assert "noeviction" in (await not_ready(own.shop))["durability"]
        await own.shop.redis.config_set("maxmemory-policy", "noeviction")
        await own.shop.redis.config_set("appendonly", "no")
        assert "appendonly" in (await not_ready(own.shop))["durability"]

        async with own.shop.database.transaction() as session:
            await session.execute(text("UPDATE alembic_version SET version_num = '2026_01_01_of_an_older_release'"))
        assert "migrate" in (await not_ready(own.shop))["migrations"]


async def test_a_shop_without_its_database_says_so_and_refuses_with_503(shop: Shop) -> None:
    """Alive, not ready, and no 500: whoever comes back later is served."""
    nowhere = copy_of(shop.settings, database_url="postgresql+asyncpg://shop@127.0.0.1:1/shop")
    async with running_shop(nowhere, worker=False) as lost:
        assert set(await not_ready(lost)) == {"postgres", "migrations"}
        assert (await get(lost, "/livez")).status_code == 200
        for path in ("/v1/products?starting_after=1", "/v1/seckill/sales", "/v1/seckill/sales/1"):
            problem_of(await get(lost, path), 503, "unavailable")
        answer = await (await lost.client()).get("/v1/orders", headers=lost.headers())
        problem_of(answer, 503, "unavailable")


async def test_the_metrics_port_tells_the_details_that_the_public_is_not_told(shop: Shop) -> None:
    """The address and the driver's error, for who may come to that port; a shop that is well has none."""
    absent = copy_of(shop.settings, redis_url=f"redis://127.0.0.1:{unused_port()}/0")
    for settings, status, redis in ((shop.settings, 200, "ok"), (absent, 503, "Redis cannot be reached")):
        port = unused_port()
        serve_metrics("127.0.0.1", port, {"/readyz": partial(details, settings)})
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:

            async def told(client: httpx.AsyncClient = client, status: int = status) -> httpx.Response | None:
                answer = await client.get("/readyz")
                return answer if answer.status_code == status and answer.json()["checks"]["postgres"] == "ok" else None

            answer: httpx.Response = await wait_until(told, reason=f"/readyz is {status}")
            refused, options = await client.post("/readyz"), await client.options("/readyz")
        found = answer.json()["checks"]

        assert (refused.status_code, refused.headers["allow"], options.status_code) == (405, "GET, HEAD, OPTIONS", 200)
        if status == 200:
            assert found["redis"] == redis
        else:
            assert found["redis"]["reason"] == redis
            assert str(settings.redis_url.rpartition(":")[2].removesuffix("/0")) in found["redis"]["detail"]


async def test_the_metrics_count_by_route_template_and_by_outcome(shop: Shop) -> None:
    """No id is ever a label, however many paths and methods a client invents."""
    sale = await shop.open_sale(units=1)
    assert outcome(await shop.buy(sale)) == "reserved"
    assert outcome(await shop.buy(sale)) == "sold_out"
    client = await shop.client()
    for path in (
        "/v1/products/1",
        "/v1/products/2",
        "/v1/orders/x",
        "/nothing/here",
        "/v1/seckill/sales/999999999/orders",
        "/.env",
    ):
        for method in ("GET", "POST", "DELETE", "BREW"):
            await client.request(method, path, headers=shop.headers(), json={"quantity": 1})
    port = unused_port()
    serve_metrics("127.0.0.1", port)

    async def counted() -> dict[str, list[Sample]] | None:
        async with httpx.AsyncClient() as scraper:
            page = await scraper.get(f"http://127.0.0.1:{port}/metrics")
        found = {family.name: family.samples for family in text_string_to_metric_families(page.text)}
        return found if "sold_out" in {sample.labels.get("outcome") for sample in found["shop_purchases"]} else None

    # The lane hands over what it has counted a few times a second.
    found: dict[str, list[Sample]] = await wait_until(counted, reason="the purchases are counted")
    document = (await get(shop, "/openapi.json")).json()
    hidden = {"/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc", "/static-offline-docs"}
    templates = {*document["paths"], *hidden, UNMATCHED}
    requests = [sample.labels for sample in found["shop_http_requests"] if sample.name.endswith("_total")]
    assert {labels["route"] for labels in requests} <= templates
    assert {labels["method"] for labels in requests} <= METHODS | {"other"}
    assert {"/v1/products/{product_id}", "/v1/seckill/sales/{sale_id}/orders", UNMATCHED} <= {
        labels["route"] for labels in requests
    }
    # What the lane has handed on, because it sells no such sale.
    assert {"method": "POST", "route": "/v1/seckill/sales/{sale_id}/orders", "status": "404"} in requests
    assert {
        labels["route"] for labels in (sample.labels for sample in found["shop_http_request_duration_seconds"])
    } <= (templates)
    outcomes = {sample.labels["outcome"] for sample in found["shop_purchases"] if sample.name.endswith("_total")}
    assert {"reserved", "sold_out"} <= outcomes <= {"reserved", "replayed", *refusals()}
    for name in (
        "shop_stream_lag_entries",
        "shop_units_available",
        "shop_pool_connections_in_use",
        "shop_ledger_alarms",
    ):
        assert found[name], name
    for name in ("shop_persisted_orders", "shop_cache_lookups", "shop_reserve_batch_requests"):
        assert found[name], name


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing/here", 404, "not_found"),
        ("GET", "/v1/products/999999999", 404, "not_found"),
        ("DELETE", "/v1/products", 405, "method_not_allowed"),
        ("GET", "/v1/products/x", 422, "invalid"),
        ("GET", "/v1/me", 401, "unauthorized"),
        ("POST", "/v1/users", 400, "bad_request"),
        ("GET", "/%00", 404, "not_found"),
    ],
)
async def test_every_refusal_is_a_problem_document(shop: Shop, method: str, path: str, status: int, code: str) -> None:
    """Type, title, status, code, request id and instance, also where no route was found (RFC 9457)."""
    answer = await (await shop.client()).request(method, path)

    document = answer.json()
    assert (answer.status_code, document["status"], document["code"]) == (status, status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "code", "request_id", "instance", "detail"} <= document.keys()
    assert document["request_id"] == answer.headers["x-request-id"]
    if status == 405:
        assert answer.headers["allow"] == "GET, HEAD, OPTIONS"


async def test_the_type_of_a_problem_can_be_opened(shop: Shop) -> None:
    """Whoever has sent it, the shop or a router or a proxy: a page that says what it means and what to do."""
    client = await shop.client()
    for method, path in (("GET", "/v1/products/999999999"), ("POST", "/livez"), ("PATCH", "/v1/me"), ("GET", "/v1/me")):
        problem = (await client.request(method, path)).json()
        page = (await get(shop, urljoin(path, problem["type"]))).json()
        told = ("code", "status", "retryable")
        assert [page[name] for name in told] == [problem[name] for name in told]
        assert page["advice"].endswith(".")

    for code, kind in refusals().items():
        page = (await get(shop, f"/errors/{code}")).json()
        assert (page["status"], page["advice"]) == (kind.status, ADVICE[code])
    for status in (status for status in HTTPStatus if status >= 400):
        error = problem_of_status(status)
        assert (await get(shop, f"/errors/{error.code}")).json()["status"] == status
    for code in ("no_such_code", "ok", "switching_protocols", "Not_Found", "' OR 1=1"):
        problem_of(await get(shop, f"/errors/{quote(code)}"), 404, "not_found")


async def test_people_get_a_page_for_the_type_of_a_problem(shop: Shop) -> None:
    """A browser asks for HTML; a program is told the same as JSON, and no cache mixes them up."""
    page = await get(shop, "/errors/sold_out", Accept="text/html,application/xhtml+xml,*/*;q=0.8")
    document = await get(shop, "/errors/sold_out", Accept="*/*")

    assert page.headers["content-type"].startswith("text/html")
    assert all(escape(str(document.json()[name])) in page.text for name in ("title", "advice", "code"))
    assert {page.headers["vary"], document.headers["vary"]} == {"Accept"}


async def test_what_the_router_refuses_is_said_as_the_shop_says_it(shop: Shop) -> None:
    """A path that nobody serves is simply not found; what it is told is no new kind of refusal."""
    kinds = refusals()
    problem = (await get(shop, "/v1/nothing")).json()
    others = [problem_of_status(status, "said by a router") for status in (404, 405)]

    assert (problem["code"], problem["title"]) == ("not_found", kinds["not_found"].title)
    assert [(other.status, other.code) for other in others] == [(404, "not_found"), (405, "method_not_allowed")]
    assert refusals() == kinds


async def test_a_request_id_that_was_sent_is_kept(shop: Shop) -> None:
    """In the answer's header and in the problem, so that two logs can be joined."""
    for sent in ("client-1", "a.b:c_d-E9", "x" * 128):
        answer = await get(shop, "/v1/products/999999999", **{"X-Request-Id": sent})
        assert answer.headers["x-request-id"] == sent
        problem_of(answer, 404, "not_found")


@pytest.mark.parametrize("hostile", ["", "two words", "x" * 129, "x" * 10_000, "}{", "é", "a\tb", "<script>", "%0d%0a"])
async def test_a_hostile_request_id_is_replaced(shop: Shop, hostile: str) -> None:
    """It would stand in headers, logs and the database; the lane, and the route behind it, replace it too."""
    client = await shop.client()
    token = {name.encode(): value.encode() for name, value in shop.headers().items()}
    unknown = "/v1/seckill/sales/999999999/orders"
    seen = set()
    for method, path, headers in (("GET", "/livez", {}), ("POST", unknown, {}), ("POST", unknown, token)):
        for _ in range(2):
            answer = await client.request(method, path, headers=headers | {b"X-Request-Id": hostile.encode()})
            [request_id] = answer.headers.get_list("x-request-id")
            assert re.fullmatch(r"[0-9a-f]{16,32}(-[0-9a-f]+)?", request_id)
            assert answer.json().get("request_id", request_id) == request_id
            seen.add(request_id)
    assert len(seen) == 6


async def test_a_body_that_is_too_large_is_refused_on_every_route(shop: Shop) -> None:
    """With a length that says so, and in chunks."""
    client = await shop.client()

    async def chunks() -> Any:
        for _ in range(100):
            yield b"x" * 1_000

    for body in (b"x" * 70_000, chunks()):
        answer = await client.post("/v1/users", content=body, headers={"Content-Type": "application/json"})
        problem_of(answer, 413, "body_too_large")


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_the_documentation_loads_nothing_from_elsewhere(shop: Shop, path: str) -> None:
    """Every script, style and picture comes from the shop itself."""
    page = await get(shop, path)

    assert page.status_code == 200
    loaded = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)["']""", page.text)
    assert loaded
    for url in loaded:
        assert re.match("/(?!/)", url), url
        assert (await get(shop, url)).status_code == 200, url
    assert not re.search(r"(?:src|href|@import)[^>]{0,20}https?://", page.text)


async def test_a_crowd_of_probes_shares_one_check(shop: Shop) -> None:
    """Each begins after somebody has asked, so that nobody is told what was true before."""
    asked: list[str] = []
    event.listen(
        shop.database.engine.sync_engine,
        "before_cursor_execute",
        lambda _connection, _cursor, statement, *_: asked.append(statement),
    )
    ready = Readiness(shop.database, shop.redis, shop.settings)

    found = await asyncio.gather(*(ready.checks() for _ in range(100)))

    assert [found[0]] * 100 == found
    assert set(found[0]) == CHECKS
    assert sum("transaction_read_only" in statement for statement in asked) in {1, 2}
