"""Who may ask for what, computed from the OpenAPI document; `test_sales_admin` does the same for admins' routes."""

import pytest
from sqlalchemy import text

from tests.api.answers import problem_of
from tests.harness import Shop, wait_until
from tests.security.routes import document_of

# Whoever adds a route without a token says so here.
PUBLIC = {
    "GET /",
    "GET /errors/{code}",
    "GET /livez",
    "GET /readyz",
    "GET /v1/products",
    "GET /v1/products/hot",
    "GET /v1/products/{product_id}",
    "GET /v1/seckill/sales",
    "GET /v1/seckill/sales/{sale_id}",
    "GET /v1/time",
    "GET /version",
    "POST /v1/auth/token",
    "POST /v1/payments/webhook",
    "POST /v1/users",
}


async def test_a_route_needs_a_token_unless_it_is_public(shop: Shop) -> None:
    """Not only in the document: a stranger gets 401 from each of the others, before anything else is looked at."""
    client = await shop.client()
    routes = (await document_of(shop)).routes

    assert {f"{route.method} {route.path}" for route in routes if not route.needs_token} == PUBLIC
    for route in routes:
        if route.needs_token:
            problem_of(await client.request(route.method, route.url), 401, "unauthorized")


@pytest.mark.parametrize("role", ["shopper", "Admin", "ADMIN", "admin ", "administrator", "shopper,admin", "", "*"])
async def test_only_the_role_admin_is_an_admins(shop: Shop, role: str) -> None:
    client = await shop.client()
    for route in (await document_of(shop)).routes:
        if route.is_admins:
            answer = await client.request(route.method, route.url, headers=shop.headers(role=role))
            problem_of(answer, 403, "forbidden")


async def test_a_blocked_account_may_do_nothing_that_needs_a_token(shop: Shop) -> None:
    """An admin's either, on every route, with a token that is still good."""
    client = await shop.client()
    headers = await shop.sign_up(role="admin")
    user_id = (await client.get("/v1/me", headers=headers)).json()["id"]
    assert (await client.post(f"/v1/admin/users/{user_id}/block", headers=shop.admin_headers())).status_code == 204

    async def blocked() -> bool:
        return (await client.get("/v1/me", headers=headers)).status_code == 403

    await wait_until(blocked, reason="the block is known")
    for route in (await document_of(shop)).routes:
        if route.needs_token:
            problem_of(await client.request(route.method, route.url, headers=headers), 403, "user_blocked")
    async with shop.database.transaction() as session:
        await session.execute(text("UPDATE users SET blocked_at = NULL WHERE id = :id"), {"id": user_id})


async def test_the_metrics_are_not_on_the_public_port(shop: Shop) -> None:
    client = await shop.client()

    for path in ("/metrics", "/metrics/", "/v1/metrics", "/v1/admin/metrics"):
        problem_of(await client.get(path, headers=shop.admin_headers()), 404, "not_found")
