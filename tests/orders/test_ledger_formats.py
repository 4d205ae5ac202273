"""The two formats of a ledger's events, from the purchase to the last state of the sale, and beside each other."""

from pathlib import Path
from uuid import UUID

from shop.ledger.events import STOCK_KINDS
from shop.ledger.keys import ledger_keys
from shop.ledger.stream import events_from
from shop.sales.models import Sale, SaleStatus
from shop.settings import Settings
from shop.support.trail.service import trail
from shop.worker import running_worker
from tests.harness import Shop, new_user_id, outcome, wait_until
from tests.lua.ledgers import command
from tests.processes import copy_of, own_shop
from tests.recovery.losses import assert_kept, until_recovered, until_sold


async def formats_of(shop: Shop, sale: Sale, *, epoch: int = 1) -> list[int]:
    """The format of each event of an order that is in the stream."""
    kinds = {kind.encode() for kind in STOCK_KINDS}
    events = [fields for _, fields in await events_from(shop.redis, sale.id, epoch, 1, 100)]
    return [2 if fields.keys() <= kinds else 1 for fields in events if b"change" not in fields]


async def explained(shop: Shop, sale: Sale, witness: str) -> str:
    """The verdict over a refusal that is recorded."""
    client, path = await shop.client(), f"/v1/seckill/sales/{sale.id}/explain"
    answer = await client.post(path, headers=shop.headers(), json={"witness": witness})
    assert answer.status_code == 200, answer.text
    verdict: str = answer.json()["verdict"]
    return verdict


async def cancel(shop: Shop, order_id: str, user_id: str) -> None:
    client = await shop.client()
    answer = await client.post(f"/v1/orders/{order_id}/cancel", headers=shop.headers(user_id))
    assert answer.status_code == 200, answer.text


async def until_returned(shop: Shop, sale: Sale, *, taken: int) -> None:
    async def returned() -> bool:
        return (await shop.row(sale)).units_taken == taken

    await wait_until(returned, reason=f"{taken} units are taken")


async def test_a_stream_with_both_formats_is_recorded_audited_explained_and_recovered(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """Half of it was sold by the scripts of a release that knows format 1 alone, and was not recorded yet."""
    async with own_shop(fresh_settings, tmp_path) as own:
        shop, users = own.shop, [new_user_id() for _ in range(6)]
        async with running_worker(shop.settings):
            sale = await shop.open_sale(units=6)
        ledger = ledger_keys(sale.id, 1).sale
        await command(shop.redis, "HDEL", ledger, "format")
        orders = [await shop.bought(sale, user) for user in users[:3]]
        await command(shop.redis, "HSET", ledger, "format", 2)
        orders += [await shop.bought(sale, user) for user in users[3:]]
        refusal = await shop.buy(sale)
        assert outcome(refusal) == "sold_out"

        assert await formats_of(shop, sale) == [1, 1, 1, 2, 2, 2]
        for order_id, balance in ((orders[1], 4), (orders[4], 1)):
            [told] = (await trail(shop.database, shop.redis, UUID(order_id))).entries
            assert (told.event, told.facts["balance"], told.facts["recorded"]) == ("reserved", balance, False)

        async with running_worker(shop.settings):
            await assert_kept(shop, sale, orders)
            assert await explained(shop, sale, refusal.json()["witness"]) == "agrees"
            await cancel(shop, orders[0], users[0])
            await cancel(shop, orders[5], users[5])
            await until_returned(shop, sale, taken=4)

            await command(shop.redis, "DEL", ledger_keys(sale.id, 1).orders)
            await until_recovered(shop, sale, epoch=2)
            last = await until_sold(shop, sale)
            await assert_kept(shop, sale, [*orders, last])
            assert await formats_of(shop, sale, epoch=2) == [2]


async def test_a_sale_in_format_1_is_sold_given_back_recovered_and_settled(
    fresh_settings: Settings, tmp_path: Path
) -> None:
    """`SHOP_LEDGER_FORMAT=1`: a release that knows no other may take over at any moment."""
    async with own_shop(copy_of(fresh_settings, ledger_format=1), tmp_path, worker_here=True) as own:
        shop, ann, bob, cid = own.shop, new_user_id(), new_user_id(), new_user_id()
        sale = await shop.open_sale(units=3)
        orders = [await shop.bought(sale, user) for user in (ann, bob)]
        await cancel(shop, orders[0], ann)
        await until_returned(shop, sale, taken=1)
        assert await formats_of(shop, sale) == [1]

        await command(shop.redis, "DEL", ledger_keys(sale.id, 1).orders)
        await until_recovered(shop, sale, epoch=2)
        orders.append(await until_sold(shop, sale, cid))
        await assert_kept(shop, sale, orders)
        assert await formats_of(shop, sale, epoch=2) == [1]

        assert (await shop.change(sale, "close")).status_code == 200
        await cancel(shop, orders[1], bob)
        await cancel(shop, orders[2], cid)

        async def settled() -> Sale | None:
            row = await shop.row(sale)
            return row if row.status == SaleStatus.SETTLED else None

        row: Sale = await wait_until(settled, reason="the sale is settled")
        assert (row.units, row.units_taken, row.alarm) == (0, 0, None)
        assert (await shop.audit(sale)).balanced
