"""The API that the tests run in their own process is served as a process of production is."""

from tests.connections.raw import exchange, wires
from tests.harness import Shop, running_shop
from tests.processes import copy_of

HALF_A_REQUEST = b"GET /version HTTP/1.1\r\nHost: shop\r\n"


async def test_the_running_shop_has_the_bound_of_connections_of_its_settings(shop: Shop) -> None:
    """uvicorn's own server would accept everybody: then no test of the suite would be about ShopServer."""
    small = copy_of(shop.settings, connections_max=2)
    async with running_shop(small, worker=False) as full, wires(full, 2) as taken:
        for connection in taken:
            connection.send(HALF_A_REQUEST)

        refused = await exchange(full, HALF_A_REQUEST + b"\r\n", "GET")

        assert (refused.status, refused.refusal()) == (503, "overloaded")
        for connection in taken:
            connection.send(b"\r\n")
        assert [(await connection.answer("GET")).status for connection in taken] == [200, 200]
