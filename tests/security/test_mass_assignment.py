"""What a client may not set cannot be set by naming it, whatever route it is sent to."""

import pytest

from tests.api.answers import problem_of
from tests.harness import Shop, new_user_id
from tests.security.routes import document_of

# RFC 6749, section 3.1: a token endpoint ignores parameters that it does not know; none of them is kept.
IGNORES = {"Credentials"}
# What one route is there for.
NAMED = {("/v1/admin/users/{user_id}/role", "role")}
NOT_THE_CLIENTS = {
    "id": 1,
    "user_id": "eve",
    "role": "admin",
    "status": "paid",
    "total_minor": 1,
    "units_taken": 0,
    "watermark": 0,
    "epoch": 1,
    "released_at": None,
    "blocked_at": None,
    "created_at": "2000-01-01T00:00:00Z",
}


async def test_no_body_takes_a_member_that_it_does_not_name(shop: Shop) -> None:
    document = await document_of(shop)
    open_schemas = {
        name
        for route in document.routes
        for name, schema in document.schemas_of(route)
        if schema.get("type") == "object" and schema.get("additionalProperties") is not False
    }

    assert open_schemas - IGNORES == set()


@pytest.mark.parametrize("member", NOT_THE_CLIENTS)
async def test_a_member_that_is_not_the_clients_is_refused_on_every_route(shop: Shop, member: str) -> None:
    """422 that names it, where a token is good for the route; nothing was looked up or changed."""
    client = await shop.client()
    body = {member: NOT_THE_CLIENTS[member]}
    for route in (await document_of(shop)).routes:
        if route.media_type != "application/json" or (not route.needs_token and route.path != "/v1/users"):
            continue
        if (route.path, member) in NAMED:
            continue
        headers = {**shop.admin_headers(), "Idempotency-Key": new_user_id()}
        answer = await client.request(route.method, route.url, headers=headers, json=body)
        violations = problem_of(answer, 422, "invalid")["errors"]
        named = [each for each in violations if member in each["pointer"] or f"`{member}`" in each["detail"]]
        assert named, (route.path, violations)


async def test_the_price_of_an_order_is_the_shops(shop: Shop) -> None:
    client = await shop.client()
    product = await shop.make_product(price_minor=990)

    for line in ({"price_minor": 1}, {"total_minor": 1}, {"currency": "IRR"}):
        wish = {"lines": [{"product_id": product.id, "quantity": 1, **line}]}
        answer = await client.post("/v1/orders", headers=shop.headers(key=new_user_id()), json=wish)
        problem_of(answer, 422, "invalid")
    wish = {"lines": [{"product_id": product.id, "quantity": 2}]}
    placed = await client.post("/v1/orders", headers=shop.headers(key=new_user_id()), json=wish)
    assert (placed.status_code, placed.json()["total_minor"]) == (201, 1_980)
