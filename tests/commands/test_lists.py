"""What an admin sees in the terminal: the lists of the API, whole in a pipe, with the same filters and refusals."""

import asyncio
from collections.abc import Callable
from uuid import UUID, uuid4

from shop.database import Database
from shop.local import environment_of
from shop.orders import repository as orders
from shop.orders.models import OrderStatus
from shop.products import repository as products
from shop.settings import Settings
from shop.users import service
from tests.nursery import Said

NOBODY = "00000000-0000-8000-8000-00000000dead"


async def two_orders(settings: Settings) -> tuple[str, str]:
    """The ids of a buyer, whose account is there, and of the newer one of their two orders."""
    database = Database(settings, application_name="shop-tests")
    async with database.transaction() as session:
        [user_id] = await service.make_shoppers(session, 1)
        product = await products.add(session, name="Phone", price_minor=990, currency="EUR", stock=2)
        for _ in range(2):
            order = await orders.add_ordinary(
                session,
                [(product.id, 1, 990)],
                hold_seconds=900,
                id=UUID(int=uuid4().int % 2**96),
                user_id=user_id,
                quantity=1,
                total_minor=990,
                currency="EUR",
            )
    await database.close()
    return user_id, str(order.id)


def test_lists_and_single_things_are_shown_for_people_and_for_programs(
    live_settings: Settings, says: Callable[..., Said]
) -> None:
    user_id, order_id = asyncio.run(two_orders(live_settings))
    variables = environment_of(live_settings)

    page = says("order", "list", "--user", user_id, "--limit", "1", "--json", **variables).value
    assert (page["object"], len(page["data"]), page["has_more"]) == ("list", 1, True)
    said = says("order", "list", "--user", user_id, "--limit", "1", **variables)
    first = page["data"][0]["id"]
    assert [line.split()[0] for line in said.output.splitlines()] == ["id", first]
    assert f"--starting-after {first}" in said.errors
    rest = says("order", "list", "--user", user_id, "--starting-after", first, "--json", **variables).value
    assert {first, *(each["id"] for each in rest["data"])} >= {order_id}
    assert (len(rest["data"]), rest["has_more"]) == (1, False)
    shown = says("order", "show", order_id, "--json", **variables).value
    assert (shown["object"], shown["user_id"], shown["status"]) == ("order", user_id, OrderStatus.RESERVED)
    [account] = says("user", "list", "--email", f"Shopper-{user_id}@example.invalid", "--json", **variables).value[
        "data"
    ]
    assert (account["id"], account["role"]) == (user_id, "shopper")
    assert says("payment", "list", "--user", user_id, "--json", **variables).value["data"] == []
    assert says("sale", "list", "--limit", "1", "--json", **variables).value["object"] == "list"


def test_what_a_list_does_not_know_is_one_line(live_settings: Settings, says: Callable[..., Said]) -> None:
    variables = environment_of(live_settings)

    for status, words in (
        (1, ("order", "show", NOBODY)),
        (1, ("sale", "show", "2147483000")),
        (1, ("order", "list", "--starting-after", NOBODY)),
        (2, ("order", "list", "--user", "a}b")),
        (2, ("user", "list", "--created-from", "yesterday")),
        (2, ("payment", "list", "--currency", "euro")),
    ):
        said = says(*words, **variables)
        assert (said.status, said.output, said.errors.count("\n")) == (status, "", 1), (words, said)
