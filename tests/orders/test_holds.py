"""A hold ends when it was said to end, however often its buyer asks again (F18)."""

from tests.harness import Shop, new_user_id


async def test_a_repeat_does_not_lengthen_the_hold(shop: Shop) -> None:
    """Neither of a purchase, before and after its row is there, nor of an ordinary order."""
    client, user = await shop.client(), new_user_id()
    sale, product = await shop.open_sale(units=5, hold_seconds=300), await shop.make_product(stock=5)
    headers = shop.headers(user, key="once")
    wish = {"lines": [{"product_id": product.id, "quantity": 1}]}

    bought = (await shop.buy(sale, user, key="once")).json()
    placed = (await client.post("/v1/orders", headers=headers, json=wish)).json()
    await shop.drained(sale)
    until = [await expiry(shop, user, order["id"]) for order in (bought, placed)]
    for _ in range(3):
        assert (await shop.buy(sale, user, key="once")).json() == bought
        assert (await client.post("/v1/orders", headers=headers, json=wish)).status_code == 200

    assert [await expiry(shop, user, order["id"]) for order in (bought, placed)] == until


async def expiry(shop: Shop, user: str, order_id: str) -> str:
    """When the hold of an order ends."""
    client = await shop.client()
    answer = await client.get(f"/v1/orders/{order_id}", headers=shop.headers(user))
    until: str = answer.json()["expires_at"]
    return until
