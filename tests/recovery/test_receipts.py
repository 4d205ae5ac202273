"""An order that Redis has lost together with the process that promised it: its receipt brings it back, for a time."""

import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from shop.ledger.keys import ledger_keys
from shop.ledger.receipts import Receipt, Signer
from shop.sales.incidents import repository as recoveries
from shop.sales.models import Sale
from shop.settings import Settings
from shop.worker import running_worker
from tests.harness import Shop, new_user_id, outcome, wait_until
from tests.processes import OwnShop, copy_of, own_shop
from tests.recovery.losses import assert_kept, unfinished, until_recovered, until_sold

HONOURED_SECONDS = 5.0

Promised = dict[str, dict[str, Any]]


async def show(shop: Shop, user_id: str, order_id: str, receipt: str) -> httpx.Response:
    """Ask for an order with its receipt."""
    headers = {**shop.headers(user_id), "Receipt": receipt}
    return await (await shop.client()).get(f"/v1/orders/{order_id}", headers=headers)


async def until_honoured(shop: Shop, user_id: str, promise: dict[str, Any]) -> None:
    """Ask again until the order is back."""

    async def honoured() -> bool:
        answer = await show(shop, user_id, promise["id"], promise["receipt"])
        assert answer.status_code == 200 or answer.json()["code"] == "not_recorded_yet", answer.text
        return answer.status_code == 200

    await wait_until(honoured, within=HONOURED_SECONDS, reason="the order is honoured")


async def until_found_again(shop: Shop, sale: Sale, user_id: str, promise: dict[str, Any]) -> None:
    """Repeat the purchase until it is answered with its order: a latch learns of a winner with its next poll."""

    async def found() -> bool:
        retried = await shop.buy(sale, user_id)
        assert retried.status_code == 200 or outcome(retried) == "sold_out", retried.text
        return retried.status_code == 200 and retried.json()["id"] == promise["id"]

    await wait_until(found, within=HONOURED_SECONDS, reason="a repeat finds the order")


async def lost_with_their_process(own: OwnShop, sale: Sale, orders: int) -> Promised:
    """Orders that a process has promised which is dead now, while no worker recorded them; all of Redis is gone."""
    through = own.through(await own.processes.start_api("api"))
    await through.until_loaded(sale)
    promised: Promised = {}
    for _ in range(orders):
        user_id = new_user_id()
        promised[user_id] = (await through.buy(sale, user_id)).json()
    await (await through.client()).aclose()
    own.processes.send("api", signal.SIGKILL)
    await own.processes.until_dead("api")
    return promised


async def lost_at_most(shop: Shop) -> int:
    async with shop.database.transaction() as session:
        return await recoveries.lost_at_most(session)


async def test_a_receipt_shown_in_its_window_brings_the_order_back(fresh_settings: Settings, tmp_path: Path) -> None:
    """Units are held back for the events that nobody can explain, and nobody else gets them meanwhile (I4, I5, I6)."""
    async with own_shop(fresh_settings, tmp_path) as own:
        shop = own.shop
        async with running_worker(shop.settings):
            sale = await shop.open_sale(units=5)
        promised = await lost_with_their_process(own, sale, 3)
        witness = await shop.bought(sale)
        await shop.redis.flushall()

        async with running_worker(shop.settings):
            await until_recovered(shop, sale, epoch=2)
            last = await until_sold(shop, sale)
            assert outcome(await shop.buy(sale)) == "sold_out"
            row = await shop.drained(sale)
            assert (row.units_taken, row.held_back, await lost_at_most(shop)) == (2, 3, 3)

            for user_id, promise in promised.items():
                await until_honoured(shop, user_id, promise)
                await until_found_again(shop, sale, user_id, promise)
            assert outcome(await shop.buy(sale)) == "sold_out"
            await assert_kept(shop, sale, [witness, last, *(promise["id"] for promise in promised.values())])
            row = await shop.row(sale)
            assert (row.units_taken, row.held_back, await lost_at_most(shop)) == (5, 0, 0)


async def test_a_second_loss_keeps_what_is_held_back_since_the_first(fresh_settings: Settings, tmp_path: Path) -> None:
    """Who was promised before both losses may still come; nobody else gets their unit meanwhile (I6)."""
    async with own_shop(fresh_settings, tmp_path) as own:
        shop = own.shop
        async with running_worker(shop.settings):
            sale = await shop.open_sale(units=5)
        promised = await lost_with_their_process(own, sale, 2)
        witness = await shop.bought(sale)
        await shop.redis.flushall()

        async with running_worker(shop.settings):
            await until_recovered(shop, sale, epoch=2)
            assert (await shop.drained(sale)).held_back == 2
            await shop.redis.flushall()
            await until_recovered(shop, sale, epoch=3, recovery=2)
            assert (await shop.drained(sale)).held_back == 2
            for user_id, promise in promised.items():
                await until_honoured(shop, user_id, promise)
            await assert_kept(shop, sale, [witness, *(promise["id"] for promise in promised.values())])


async def test_after_the_window_a_receipt_is_too_late_and_its_units_are_on_sale(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """A numbered change puts back what was held; what may be lost stays counted (I3)."""
    async with own_shop(copy_of(fresh_settings, receipt_window_seconds=1), tmp_path) as own:
        shop = own.shop
        async with running_worker(shop.settings):
            sale = await shop.open_sale(units=3)
        promised = await lost_with_their_process(own, sale, 2)
        witness = await shop.bought(sale)
        await shop.redis.flushall()

        async with running_worker(shop.settings):
            await until_recovered(shop, sale, epoch=2)

            async def restored() -> bool:
                row = await shop.row(sale)
                return (row.held_back, row.watermark_balance) == (0, 2)

            await wait_until(restored, reason="the units are on sale again")
            for user_id, promise in promised.items():
                answer = await show(shop, user_id, promise["id"], promise["receipt"])
                assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
            others = [await until_sold(shop, sale) for _ in range(2)]
            await assert_kept(shop, sale, [witness, *others])
            assert await lost_at_most(shop) == 2


async def test_a_receipt_tells_of_a_loss_that_nobody_has_noticed(fresh_settings: Settings, tmp_path: Path) -> None:
    """It is signed, so the ledger that does not know the order has lost it: the sale is closed and recovered."""
    async with own_shop(fresh_settings, tmp_path) as own:
        shop, user_id = own.shop, new_user_id()
        async with running_worker(shop.settings):
            sale = await shop.open_sale(units=3)
        promise = (await shop.buy(sale, user_id)).json()
        await shop.redis.delete(ledger_keys(sale.id, 1).orders)

        answer = await show(shop, user_id, promise["id"], promise["receipt"])
        assert (answer.status_code, answer.json()["code"]) == (503, "not_recorded_yet")
        assert await unfinished(shop, sale) is not None
        assert outcome(await shop.buy(sale)) == "not_ready"

        async with running_worker(shop.settings):
            await until_recovered(shop, sale, epoch=2)
            await until_honoured(shop, user_id, promise)
            await assert_kept(shop, sale, [promise["id"]])


@pytest.mark.parametrize("wrong", ["forged", "of another buyer", "for another order", "for an order never made"])
async def test_a_receipt_that_is_not_the_buyers_own_brings_nothing(shop: Shop, wrong: str) -> None:
    """Nothing is claimed, nothing is closed, and nothing is told."""
    sale, user_id = await shop.open_sale(units=3), new_user_id()
    promise = (await shop.buy(sale, user_id)).json()
    order_id, receipt, asks = promise["id"], promise["receipt"], user_id
    if wrong == "forged":
        receipt = receipt[:-4] + ("AAAA" if not receipt.endswith("AAAA") else "BBBB")
    elif wrong == "of another buyer":
        asks = new_user_id()
    elif wrong == "for another order":
        order_id = (await shop.bought(sale, asks := new_user_id()))[:-4] + "0000"
    else:
        order_id = f"{order_id[:-4]}0000"
        known = Signer(shop.settings.secret).read(Receipt, receipt)
        receipt = Signer(b"another shop").sign(Receipt(order_id, sale.id, 1, 1, user_id, 1, known.reserved_ms))

    answer = await show(shop, asks, order_id, receipt)
    signed_here = wrong in {"of another buyer", "for another order"}
    assert answer.status_code == (404 if signed_here else 422)
    row = await shop.row(sale)
    assert (row.recovery, row.alarm) == (0, None)
