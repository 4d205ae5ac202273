"""Nobody learns from a refusal what there is: what is another's is answered like what is not there."""

from uuid import UUID, uuid4

import httpx

from tests.harness import Shop, new_user_id

PER_REQUEST = {"instance", "request_id"}


def told(answer: httpx.Response) -> tuple[int, dict[str, object], set[str]]:
    """All that an answer tells, except what it repeats of the request."""
    body = {name: value for name, value in answer.json().items() if name not in PER_REQUEST}
    return answer.status_code, body, set(answer.headers)


async def lookups(shop: Shop) -> int:
    """How often the ledger was asked for an order."""
    stats = await shop.redis.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in ("hget", "hmget"))


async def test_an_order_of_somebody_else_is_answered_like_one_that_was_never_made(shop: Shop) -> None:
    """In status, body and headers, for reading and cancelling, and it takes the same looks at the ledger."""
    sale = await shop.open_sale(units=5)
    client, eve = await shop.client(), shop.headers()
    foreign = UUID(await shop.bought(sale, new_user_id()))
    await shop.drained(sale)
    # The first 32 bits name the sale, so that both are looked for in the same place.
    never_made = UUID(bytes=foreign.bytes[:4] + uuid4().bytes[4:])

    for method, verb in (("GET", ""), ("POST", "/cancel")):
        answers, looks = [], []
        for order_id in (foreign, never_made):
            before = await lookups(shop)
            answers.append(told(await client.request(method, f"/v1/orders/{order_id}{verb}", headers=eve)))
            looks.append(await lookups(shop) - before)
        assert answers[0] == answers[1]
        assert answers[0][0] == 404
        assert looks[0] == looks[1] > 0


async def test_a_draft_is_answered_like_a_sale_that_does_not_exist(shop: Shop) -> None:
    client, draft = await shop.client(), await shop.draft_sale()

    found = [told(await client.get(f"/v1/seckill/sales/{sale_id}")) for sale_id in (draft.id, 2_147_483_000)]
    assert found[0] == found[1]
    bought = [
        told(await client.post(f"/v1/seckill/sales/{sale_id}/orders", headers=shop.headers(), json={}))
        for sale_id in (draft.id, 2_147_483_000)
    ]
    assert bought[0] == bought[1]
