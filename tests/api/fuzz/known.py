"""Things that are in the fuzzed shop, which a made-up path would never hit."""

from pathlib import Path

from tests.harness import Shop

CONFIG = Path(__file__).with_name("schemathesis.toml")
# Who asks: an admin who buys too.
FUZZER = "fuzzer"


async def known_in(shop: Shop) -> dict[str, list[object]]:
    """Sales in every state, orders in the ledger and in rows, products and an account, by their names in a path."""
    draft = await shop.draft_sale(units=5, stock=50)
    opened = await shop.open_sale(units=5_000, stock=20_000, units_per_user=5_000)
    coming = await shop.open_sale(units=5, starts_in=3_600)
    closed = await shop.open_sale(units=5)
    await shop.change(closed, "close")
    orders: list[object] = [await shop.bought(opened, FUZZER, key=str(number)) for number in range(3)]
    account = await (await shop.client()).get("/v1/me", headers=await shop.sign_up())
    return {
        "sale_id": [draft.id, opened.id, coming.id, closed.id],
        "order_id": orders,
        "product_id": [draft.product_id, opened.product_id],
        "user_id": [account.json()["id"]],
        "code": ["sold_out", "not_found"],
    }
