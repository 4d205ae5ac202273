"""The API that the tests run in their own process is served as a process of production is."""

from tests.harness import Shop, running_shop
from tests.processes import copy_of
from tests.server.raw import LIVEZ, wire


async def test_the_running_shop_accepts_as_many_connections_of_an_address_as_its_settings_say(shop: Shop) -> None:
    """uvicorn's own server would accept all of them: then no test of the suite would be about ShopServer."""
    strict = copy_of(shop.settings, connections_per_address_max=1, trusted_proxies="")
    async with running_shop(strict, worker=False) as found, wire(found) as accepted:
        accepted.send(LIVEZ)
        assert (await accepted.answer("GET")).status == 200

        async with wire(found) as refused:
            await refused.until_closed()

        accepted.send(LIVEZ)
        assert (await accepted.answer("GET")).status == 200
