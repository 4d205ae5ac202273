"""The purchase over HTTP: what is promised, and to whom."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
import pytest

from shop.ledger.order_ids import sale_of
from shop.ledger.receipts import Forged, Receipt, Signer, Witness
from tests.api.answers import problem_of, receipt_of, witness_of
from tests.api.crowd import Click, click_all, counted
from tests.api.purchases import row_of, state_of
from tests.harness import Shop, new_user_id, outcome, wait_until


async def test_an_accepted_purchase_says_what_was_promised(shop: Shop) -> None:
    """202: the order, where to ask for it, when it may expire at the earliest, and a receipt."""
    sale = await shop.open_sale(units=10, units_per_user=3, hold_seconds=600)
    user = new_user_id()
    before = datetime.now(UTC) - timedelta(seconds=1)

    answer = await shop.buy(sale, user, quantity=3, key="first")

    body = answer.json()
    assert answer.status_code == 202
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["location"] == f"/v1/orders/{body['id']}"
    assert "idempotency-replayed" not in answer.headers
    assert answer.headers["x-request-id"]
    reserved_at = datetime.fromisoformat(body.pop("reserved_at"))
    expires_not_before = datetime.fromisoformat(body.pop("expires_not_before"))
    assert before < reserved_at <= datetime.now(UTC) + timedelta(seconds=1)
    assert expires_not_before - reserved_at == timedelta(seconds=600)
    assert body.pop("receipt")
    assert body == {
        "object": "order",
        "id": body["id"],
        "status": "reserved",
        "sale_id": sale.id,
        "quantity": 3,
        "total_minor": 3 * sale.price_minor,
        "currency": "EUR",
        "poll_after_ms": shop.settings.poll_after_ms,
    }
    assert UUID(body["id"]).version == 8
    assert sale_of(UUID(body["id"])) == sale.id


async def test_a_receipt_is_signed_and_names_the_place_of_the_order_in_the_ledger(shop: Shop) -> None:
    """With it a buyer can claim an order that Redis has lost; nobody else can make one."""
    sale = await shop.open_sale(units=2)
    user = new_user_id()
    await shop.buy(sale)

    answer = await shop.buy(sale, user)

    receipt = receipt_of(shop, answer)
    assert (receipt.user_id, receipt.epoch, receipt.seq) == (user, 1, 2)
    assert datetime.fromtimestamp(receipt.reserved_ms / 1000, UTC) == datetime.fromisoformat(
        answer.json()["reserved_at"]
    )
    signer, signed = Signer(shop.settings.secret), answer.json()["receipt"]
    with pytest.raises(Forged):
        signer.read(Receipt, ("B" if signed[0] == "A" else "A") + signed[1:])
    with pytest.raises(Forged):
        signer.read(Witness, signed)
    with pytest.raises(Forged):
        Signer(b"another secret that is long enough too").read(Receipt, signed)


async def test_the_promise_becomes_exactly_one_row(shop: Shop) -> None:
    """I6: the row says what the 202 said."""
    sale = await shop.open_sale(units=2)
    user = new_user_id()
    promised = (await shop.buy(sale, user, key="once")).json()

    await shop.drained(sale)

    row = await row_of(shop, promised["id"], user)
    assert row is not None
    assert (row.sale_id, row.quantity, row.total_minor) == (sale.id, 1, promised["total_minor"])
    assert row.reserved_at == datetime.fromisoformat(promised["reserved_at"])
    assert row.expires_at >= datetime.fromisoformat(promised["expires_not_before"])


async def test_every_refusal_of_the_ledger_carries_a_signed_witness(shop: Shop) -> None:
    """Code, epoch and the seq at which it was decided: a refusal can be checked against the ledger later."""
    sale = await shop.open_sale(units=3, units_per_user=2)
    first, second = new_user_id(), new_user_id()
    assert outcome(await shop.buy(sale, first, quantity=2, key="a")) == "reserved"

    refusals = {
        "over_limit": (409, await shop.buy(sale, first, key="b")),
        "not_enough_units": (409, await shop.buy(sale, second, quantity=2, key="a")),
    }
    assert outcome(await shop.buy(sale, second, key="c")) == "reserved"
    refusals["sold_out"] = (409, await shop.buy(sale, key="a"))
    await shop.change(sale, "pause")
    refusals["sale_paused"] = (503, await shop.until_told(sale, "sale_paused"))
    await shop.change(sale, "close")
    refusals["sale_ended"] = (410, await shop.until_told(sale, "sale_ended"))

    witnesses = [witness_of(shop, problem_of(answer, *(status, code))) for code, (status, answer) in refusals.items()]
    assert {(witness.sale_id, witness.epoch) for witness in witnesses} == {(sale.id, 1)}
    assert [witness.seq for witness in witnesses[:3]] == [1, 1, 2]
    assert witnesses[3].seq == 3
    assert witnesses[4].seq >= 4
    assert all(abs(witness.at_ms / 1000 - datetime.now(UTC).timestamp()) < 30 for witness in witnesses)


async def test_a_refusal_says_what_a_buyer_can_do_with_it(shop: Shop) -> None:
    """How many units the buyer has, when the sale ended; `sold_out` needs no more."""
    sale = await shop.open_sale(units=2, units_per_user=2)
    user = new_user_id()
    await shop.buy(sale, user, quantity=2)

    assert problem_of(await shop.buy(sale, user, key="more"), 409, "over_limit")["units_held"] == 2
    problem_of(await shop.buy(sale), 409, "sold_out")
    await shop.change(sale, "close")
    ended_at = datetime.fromisoformat(
        problem_of(await shop.until_told(sale, "sale_ended"), 410, "sale_ended")["ended_at"]
    )
    assert abs((datetime.now(UTC) - ended_at).total_seconds()) < 30


async def test_five_wanted_with_three_left_and_then_three(shop: Shop) -> None:
    """`not_enough_units` is not `sold_out`, and it leaves no order behind (I9)."""
    sale = await shop.open_sale(units=3, units_per_user=5)
    user = new_user_id()

    problem_of(await shop.buy(sale, user, quantity=5), 409, "not_enough_units")

    assert outcome(await shop.buy(sale, user, quantity=3)) == "reserved"
    problem_of(await shop.buy(sale), 409, "sold_out")


async def test_a_buyer_needs_no_row(shop: Shop) -> None:
    """Nothing that a client can send may make a batch fail: `orders.user_id` has no foreign key."""
    sale = await shop.open_sale(units=1)
    user = "nobody_registered-me"
    client = await shop.client()
    assert (await client.get("/v1/me", headers=shop.headers(user))).status_code == 404

    order = (await shop.buy(sale, user)).json()

    await shop.drained(sale)
    assert await row_of(shop, order["id"], user) is not None


async def test_parallel_orders_of_one_buyer_cannot_exceed_their_limit(shop: Shop) -> None:
    """F28: what is pending counts (I5)."""
    sale = await shop.open_sale(units=50, units_per_user=3, orders_per_user=100)
    user = new_user_id()

    answers = await click_all(shop, sale, [Click(user, f"key-{number}") for number in range(30)])

    assert counted(answers) == {"reserved": 3, "over_limit": 27}
    assert (await shop.drained(sale)).units_taken == 3
    assert (await shop.audit(sale)).invariants["I5"]


async def test_parallel_orders_of_one_buyer_cannot_exceed_the_number_of_orders(shop: Shop) -> None:
    sale = await shop.open_sale(units=50, units_per_user=50, orders_per_user=4)
    user = new_user_id()

    answers = await click_all(shop, sale, [Click(user, f"key-{number}") for number in range(30)])

    assert counted(answers) == {"reserved": 4, "over_limit": 26}


async def test_five_hundred_buyers_on_one_unit_are_one_winner(shop: Shop) -> None:
    """F1: check and decrement are one step (I4)."""
    sale = await shop.open_sale(units=1)

    answers = await click_all(shop, sale, [Click(new_user_id()) for _ in range(500)], connections=100)

    assert counted(answers) == {"reserved": 1, "sold_out": 499}

    assert (await shop.drained(sale)).units_taken == 1
    assert (await shop.audit(sale)).balanced


async def test_before_the_start_nothing_is_sold_and_the_start_is_named(shop: Shop) -> None:
    """F30: 403 by the server's clock, and nothing changed."""
    sale = await shop.open_sale(units=5, starts_in=1_000)
    before = await state_of(shop, sale)

    document = problem_of(early := await shop.buy(sale), 403, "sale_not_started")

    starts_at = sale.starts_at.replace(microsecond=sale.starts_at.microsecond // 1_000 * 1_000)
    assert abs(datetime.fromisoformat(document["starts_at"]) - starts_at) <= timedelta(milliseconds=1)
    assert 900 < int(early.headers["retry-after"]) <= 1_000 + 4
    assert witness_of(shop, document).seq == 0
    after = await state_of(shop, sale)
    assert (after.seq, after.available) == (before.seq, before.available) == (0, 5)


async def test_a_sale_opens_by_itself_at_its_first_millisecond(shop: Shop) -> None:
    """No job opens it: who is refused was before the start, and who is accepted was not (I10)."""
    sale = await shop.open_sale(units=5, starts_in=1_000)
    starts_at = datetime.now(UTC) + timedelta(seconds=0.5)
    moved = await shop.change(sale, "window", {"starts_at": starts_at.isoformat()})
    assert moved.json()["outcome"] == "applied"

    async def bought() -> httpx.Response | None:
        asked_at = datetime.now(UTC)
        answer = await shop.buy(sale)
        if outcome(answer) == "reserved":
            return answer
        assert asked_at < starts_at
        problem_of(answer, 403, "sale_not_started")
        return None

    answer: httpx.Response = await wait_until(bought, reason="the sale opened by itself")
    reserved_at = datetime.fromisoformat(answer.json()["reserved_at"])
    assert reserved_at >= starts_at - timedelta(milliseconds=1)


async def test_a_sale_that_the_lane_does_not_know_is_answered_by_postgres(shop: Shop) -> None:
    """A draft is nobody's business, and neither is a sale that does not exist."""
    draft = await shop.draft_sale(units=5)

    problem_of(await shop.buy(draft), 404, "not_found")
    assert (await shop.row(draft)).epoch == 0
