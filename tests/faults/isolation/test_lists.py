"""Sales are listed and read whatever the row of one of them holds."""

import pytest
from sqlalchemy import text

from shop.database import Database
from shop.settings import Settings
from tests.harness import running_shop

POISONS = {
    "ends_at = 'infinity'": ("ends_at", "9000"),
    "ends_at = '20000-01-01'": ("ends_at", "9000"),
    "starts_at = '-infinity'": ("starts_at", "2000"),
    "updated_at = '4000-01-01 BC'": ("updated_at", "2000"),
}


@pytest.mark.parametrize("values", POISONS)
async def test_a_row_that_holds_times_beyond_the_horizon_hides_neither_the_others_nor_itself(
    settings: Settings, database: Database, values: str
) -> None:
    """What cannot be said is shown as the nearest that can, so an admin sees which sale it is."""
    async with running_shop(settings, worker=False) as shop:
        sales = [await shop.draft_sale() for _ in range(3)]
        async with database.transaction() as session:
            await session.execute(text("UPDATE sales SET status = 'scheduled'"))
            await session.execute(text(f"UPDATE sales SET {values} WHERE id = :id"), {"id": sales[1].id})  # noqa: S608

        client, headers = await shop.client(), shop.admin_headers()
        paths = ["/v1/seckill/sales", "/v1/admin/sales"]
        pages = [(await client.get(path, headers=headers)).json()["data"] for path in paths]
        single = [await client.get(f"{path}/{sales[1].id}", headers=headers) for path in paths]
        bought = await shop.buy(sales[1])

    assert [[each["id"] for each in page] for page in pages] == [[sale.id for sale in reversed(sales)]] * 2
    assert [answer.status_code for answer in single] == [200, 200]
    column, year = POISONS[values]
    assert single[1].json()[column].startswith(year)
    assert bought.status_code < 500 or bought.json()["code"] == "not_ready"
