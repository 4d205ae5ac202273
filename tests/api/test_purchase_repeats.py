"""A purchase that is sent again: the same order, whatever has become of it and of its sale."""

import asyncio
from collections import Counter
from uuid import UUID

from sqlalchemy import text

from shop.ledger import client as ledger
from shop.ledger.receipts import Receipt, Signer
from shop.sales.models import SaleStatus
from tests.api import orders
from tests.api.answers import problem_of, receipt_of
from tests.api.crowd import Click, click_all, counted
from tests.api.purchases import state_of
from tests.api.sales import until_status
from tests.harness import Shop, new_user_id, outcome, wait_until


async def cancel(shop: Shop, order_id: str, user_id: str) -> None:
    """Cancel an order, and wait until its units are back in the ledger."""
    answer = await orders.cancel(shop, order_id, user_id)
    assert answer.status_code == 200, answer.text
    await orders.until_released(shop, order_id, user_id)


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


async def test_a_thousand_clicks_of_one_buyer_take_one_unit(shop: Shop) -> None:
    """F15: the replay check comes before the stock, and no request burns a unit."""
    sale = await shop.open_sale(units=100, units_per_user=100)
    user = new_user_id()

    answers = await click_all(shop, sale, [Click(user)] * 1_000)

    assert counted(answers) == {"reserved": 1, "replayed": 999}
    state = await state_of(shop, sale)
    assert (state.seq, state.available) == (1, 99)
