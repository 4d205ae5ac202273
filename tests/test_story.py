"""Read this first: one sale from draft to audit."""

from tests.harness import Shop, keyed, outcome, wait_until


async def test_a_sale_from_draft_to_audit(shop: Shop) -> None:
    """An admin puts ten units on sale, a crowd of fifty wants them, and every unit is accounted for at the end."""
    client = await shop.client()
    admin = shop.admin_headers()

    # A draft takes nothing out of stock; scheduling it does, and loads the ledger.
    draft = await shop.draft_sale(units=10, stock=10, hold_seconds=600)
    assert (await client.get(f"/v1/seckill/sales/{draft.id}")).status_code == 404
    scheduled = await client.post(f"/v1/admin/sales/{draft.id}/schedule", headers=admin)
    assert scheduled.status_code == 200, scheduled.text
    await shop.until_loaded(draft)
    public = (await client.get(f"/v1/seckill/sales/{draft.id}")).json()
    assert (public["phase"], public["stock"]) == ("open", "plenty")

    # The crowd.
    assert await shop.rush(draft, buyers=50) == {"reserved": 10, "sold_out": 40}
    await shop.drained(draft)

    # Two more units make two more buyers happy; one of them gives theirs back, and it is sold again.
    stocked = await client.post(f"/v1/admin/products/{draft.product_id}/stock", headers=keyed(admin), json={"delta": 5})
    assert stocked.json()["stock"] == 5
    more = await shop.change(draft, "stock", {"delta": 2})
    assert more.json()["outcome"] == "applied"
    ann, bob = "story-ann", "story-bob"
    order = (await shop.buys(draft, ann)).json()
    assert outcome(await shop.buy(draft, bob)) == "reserved"
    assert outcome(await shop.buy(draft)) == "sold_out"
    cancelled = await client.post(f"/v1/orders/{order['id']}/cancel", headers=shop.headers(ann))
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    await shop.buys(draft)
    await shop.drained(draft)
    assert (await client.get(f"/v1/orders/{order['id']}", headers=shop.headers(ann))).json()["released_at"]

    # The proof, and the end: nothing is left, so nothing goes back to the product.
    audit = (await client.get(f"/v1/admin/sales/{draft.id}/audit", headers=admin)).json()
    assert audit["invariants"] == {"I1": True, "I2": True, "I3": True, "I4": True, "I5": True, "I6": True}, audit[
        "violations"
    ]
    assert (audit["units"], audit["held"], audit["available"]) == (12, 12, 0)
    assert (await shop.change(draft, "close")).json()["outcome"] == "applied"

    async def ended() -> bool:
        return (await shop.row(draft)).status == "ended"

    await wait_until(ended, reason="the sale has ended by itself")
    assert outcome(await shop.buy(draft)) == "sale_ended"
    assert (await shop.audit(draft)).balanced
