"""The purchase over HTTP: what is promised, to whom, and what a repeat of it means."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
import pytest
from sqlalchemy import text

from shop.ledger import client as ledger
from shop.ledger.order_ids import sale_of
from shop.ledger.receipts import Forged, Receipt, Signer, Witness
from shop.orders import repository as orders
from shop.orders.models import Order
from shop.sales.models import Sale, SaleStatus
from tests.api.answers import problem_of, receipt_of, witness_of
from tests.api.crowd import Click, click_all, counted
from tests.harness import Shop, new_user_id, outcome, wait_until


async def state_of(shop: Shop, sale: Sale) -> ledger.LedgerState:
    """The sale's ledger now."""
    row = await shop.row(sale)
    state = await ledger.read_state(shop.redis, sale.id, row.epoch)
    assert state is not None
    return state


async def row_of(shop: Shop, order_id: str, user_id: str) -> Order | None:
    """The order's row, if it has one."""
    async with shop.database.transaction() as session:
        return await orders.find(session, UUID(order_id), user_id)


async def cancel(shop: Shop, order_id: str, user_id: str) -> None:
    """Cancel an order, and wait until its units are back in the ledger."""
    client = await shop.client()
    answer = await client.post(f"/v1/orders/{order_id}/cancel", headers=shop.headers(user_id))
    assert answer.status_code == 200, answer.text

    async def released() -> bool:
        row = await row_of(shop, order_id, user_id)
        return row is not None and row.released_at is not None

    await wait_until(released, reason="the units are back")


async def until_status(shop: Shop, sale: Sale, status: SaleStatus) -> None:
    async def reached() -> bool:
        return (await shop.row(sale)).status == status

    await wait_until(reached, reason=f"the sale is {status}")


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


async def test_a_repeat_with_the_same_key_is_the_same_answer(shop: Shop) -> None:
    """200 with the same body and receipt, marked as a replay, and no second effect (F21)."""
    sale = await shop.open_sale(units=5)
    user = new_user_id()
    first = await shop.buy(sale, user, key="once")
    before = await state_of(shop, sale)

    repeats = [await shop.buy(sale, user, key=key) for key in ("once", '"once"', "once")]

    for repeat in repeats:
        assert repeat.status_code == 200
        assert repeat.headers["idempotency-replayed"] == "true"
        assert repeat.headers["location"] == first.headers["location"]
        assert repeat.json() == first.json()
    after = await state_of(shop, sale)
    assert (after.seq, after.available) == (before.seq, before.available) == (1, 4)


async def test_a_hundred_requests_with_one_key_at_once_are_one_order(shop: Shop) -> None:
    """F21, F22: one is 202, the others are the same order."""
    sale = await shop.open_sale(units=10, units_per_user=10)
    user = new_user_id()

    answers = await click_all(shop, sale, [Click(user, "once")] * 100, connections=100)

    assert counted(answers) == {"reserved": 1, "replayed": 99}
    # Each is told a time of its own to ask again; all else is the same.
    told = [{**answer.body, "poll_after_ms": None} for answer in answers]
    assert all(each == told[0] for each in told)
    state = await state_of(shop, sale)
    assert (state.seq, state.available) == (1, 9)
    assert (await shop.drained(sale)).units_taken == 1


async def test_the_same_key_with_another_quantity_names_the_order_that_it_has(shop: Shop) -> None:
    """F21: 422, and nothing changed."""
    sale = await shop.open_sale(units=10, units_per_user=10)
    user = new_user_id()
    order = (await shop.buy(sale, user, quantity=2, key="once")).json()

    document = problem_of(await shop.buy(sale, user, quantity=3, key="once"), 422, "idempotency_mismatch")

    assert document["order_id"] == order["id"]
    state = await state_of(shop, sale)
    assert (state.seq, state.available) == (1, 8)


async def test_a_key_belongs_to_one_buyer_and_one_sale(shop: Shop) -> None:
    """Two buyers, or two sales, with the same key are different orders."""
    sale, other = await asyncio.gather(shop.open_sale(units=5), shop.open_sale(units=5))
    ann, bob = new_user_id(), new_user_id()

    answers = [await shop.buy(*which, key="same") for which in ((sale, ann), (sale, bob), (other, ann))]

    assert [outcome(answer) for answer in answers] == ["reserved"] * 3
    assert len({answer.json()["id"] for answer in answers}) == 3


async def test_a_double_click_without_a_key_is_one_order(shop: Shop) -> None:
    """F21: at once, and a moment later, also after the order is recorded."""
    sale = await shop.open_sale(units=5, units_per_user=5)
    user = new_user_id()

    answers = await asyncio.gather(shop.buy(sale, user), shop.buy(sale, user))
    await shop.drained(sale)
    late = await shop.buy(sale, user)

    assert Counter(outcome(answer) for answer in answers) == {"reserved": 1, "replayed": 1}
    assert {answer.json()["id"] for answer in (*answers, late)} == {answers[0].json()["id"]}
    assert outcome(late) == "replayed"
    assert (await state_of(shop, sale)).available == 4


async def test_another_quantity_without_a_key_names_the_open_order(shop: Shop) -> None:
    """It is not a second order and not a bigger one: 422 says which one is open."""
    sale = await shop.open_sale(units=5, units_per_user=5)
    user = new_user_id()
    order = (await shop.buy(sale, user, quantity=1)).json()

    document = problem_of(await shop.buy(sale, user, quantity=2), 422, "idempotency_mismatch")

    assert document["order_id"] == order["id"]
    assert (await state_of(shop, sale)).available == 4


async def test_after_a_cancel_a_late_duplicate_of_the_old_request_is_the_released_order(shop: Shop) -> None:
    """It must not buy again what its buyer gave back (I7)."""
    sale = await shop.open_sale(units=5)
    user = new_user_id()
    order = (await shop.buy(sale, user, key="old")).json()
    await cancel(shop, order["id"], user)
    before = await state_of(shop, sale)

    late = await shop.buy(sale, user, key="old")

    assert late.status_code == 200
    assert late.headers["idempotency-replayed"] == "true"
    assert (late.json()["id"], late.json()["status"]) == (order["id"], "cancelled")
    assert (await state_of(shop, sale)).seq == before.seq
    problem_of(await shop.buy(sale, user, quantity=2, key="old"), 422, "idempotency_mismatch")


async def test_after_a_cancel_a_purchase_without_a_key_is_a_new_order(shop: Shop) -> None:
    """F24: the limit counts what the buyer has now, so they may, and a third time too."""
    sale = await shop.open_sale(units=1)
    user = new_user_id()
    seen = set()
    for _ in range(3):
        answer = await shop.buy(sale, user)
        assert outcome(answer) == "reserved"
        seen.add(answer.json()["id"])
        await cancel(shop, answer.json()["id"], user)
    assert len(seen) == 3


async def test_a_buyer_without_a_key_may_try_as_often_as_the_sale_allows(shop: Shop) -> None:
    """`orders_per_user` bounds the tries, also of one who gives everything back."""
    sale = await shop.open_sale(units=5, orders_per_user=2)
    user = new_user_id()
    for _ in range(2):
        await cancel(shop, await shop.bought(sale, user), user)

    problem_of(await shop.buy(sale, user), 409, "over_limit")
    problem_of(await shop.buy(sale, user, key="another-way"), 409, "over_limit")


async def test_five_wanted_with_three_left_and_then_three(shop: Shop) -> None:
    """`not_enough_units` is not `sold_out`, and it leaves no order behind (I9)."""
    sale = await shop.open_sale(units=3, units_per_user=5)
    user = new_user_id()

    problem_of(await shop.buy(sale, user, quantity=5), 409, "not_enough_units")

    assert outcome(await shop.buy(sale, user, quantity=3)) == "reserved"
    problem_of(await shop.buy(sale), 409, "sold_out")


async def test_a_winner_finds_their_order_while_the_sale_is_paused(shop: Shop) -> None:
    """And nobody else buys; a resume sells again."""
    sale = await shop.open_sale(units=5)
    user = new_user_id()
    won = (await shop.buy(sale, user, key="won")).json()
    assert (await shop.change(sale, "pause")).status_code == 200

    again = await shop.buy(sale, user, key="won")
    problem_of(await shop.buy(sale), 503, "sale_paused")

    assert (again.status_code, again.json()) == (200, won)
    assert (await shop.change(sale, "resume")).status_code == 200
    assert outcome(await shop.buy(sale)) == "reserved"


async def test_a_winner_finds_their_order_after_the_end_and_after_the_sale_is_settled(shop: Shop) -> None:
    """200 in every state of the sale: from the ledger, and from the row when the ledger is gone (I7)."""
    sale = await shop.open_sale(units=5)
    ann, bob = new_user_id(), new_user_id()
    won = (await shop.buy(sale, ann, key="won")).json()
    gave_back = (await shop.buy(sale, bob)).json()
    await shop.drained(sale)
    await shop.change(sale, "close")
    assert (await shop.buy(sale, ann, key="won")).json() == won
    problem_of(await shop.buy(sale), 410, "sale_ended")

    await until_status(shop, sale, SaleStatus.ENDED)
    assert (await shop.buy(sale, ann, key="won")).json() == won
    problem_of(await shop.buy(sale), 410, "sale_ended")

    # A paid order is what keeps its units when the sale is settled.
    async with shop.database.transaction() as session:
        await session.execute(text("UPDATE orders SET status = 'paid' WHERE id = :id"), {"id": UUID(won["id"])})
    await cancel(shop, gave_back["id"], bob)
    await until_status(shop, sale, SaleStatus.SETTLED)

    async def gone() -> bool:
        return await ledger.read_state(shop.redis, sale.id, 1) is None

    await wait_until(gone, reason="the ledger is gone")
    again = await shop.buy(sale, ann, key="won")
    assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")
    assert again.json() == {**won, "status": "paid"}
    assert receipt_of(shop, again) == Signer(shop.settings.secret).read(Receipt, won["receipt"])
    problem_of(await shop.buy(sale, ann, quantity=2, key="won"), 422, "idempotency_mismatch")
    late = await shop.buy(sale, bob, key="never-used")
    problem_of(late, 410, "sale_ended")


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


async def test_a_thousand_clicks_of_one_buyer_take_one_unit(shop: Shop) -> None:
    """F15: the replay check comes before the stock, and no request burns a unit."""
    sale = await shop.open_sale(units=100, units_per_user=100)
    user = new_user_id()

    answers = await click_all(shop, sale, [Click(user)] * 1_000)

    assert counted(answers) == {"reserved": 1, "replayed": 999}
    state = await state_of(shop, sale)
    assert (state.seq, state.available) == (1, 99)


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
