"""A gate for each kind of request: bounded, in order, and open to others while a crowd stands before one of them."""

import asyncio

import httpx
import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shop.app.gates import (
    ACCOUNTS,
    ADMIN,
    KINDS,
    MONEY,
    OPERATOR,
    ORDERS,
    PUBLIC,
    PURCHASES,
    STREAMS,
    Gate,
    Gates,
    Kind,
    kind_of,
)
from shop.errors import Overloaded
from shop.settings import Settings

PATIENT = Settings(
    _env_file=None, environment="development", redis_url="redis://nowhere", request_wait_seconds_max=60.0
)
SMALL = Kind("small", 0.001, running_max=2, waiting_max=3)
WAIT_SECONDS_MAX = 0.2


async def enter(gate: Gate, order: list[int], number: int) -> None:
    await gate.enter()
    order.append(number)


async def test_so_many_run_and_the_others_wait_in_their_order() -> None:
    gate, order = Gate(SMALL, WAIT_SECONDS_MAX), list[int]()
    tasks = [asyncio.create_task(enter(gate, order, number)) for number in range(5)]
    await asyncio.sleep(0)
    assert order == [0, 1]

    with pytest.raises(Overloaded):
        await gate.enter()  # The queue is full.
    gate.leave()
    gate.leave()
    await asyncio.gather(*tasks[:4])
    assert order == [0, 1, 2, 3]
    gate.leave()
    await tasks[4]
    assert order == [*range(5)]


async def test_nobody_waits_for_longer_than_the_deadline_and_who_gave_up_takes_no_slot() -> None:
    gate, order = Gate(SMALL, WAIT_SECONDS_MAX), list[int]()
    await gate.enter()
    await gate.enter()
    late = [asyncio.create_task(gate.enter()) for _ in range(3)]
    late[0].cancel()
    results = await asyncio.gather(*late, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert all(isinstance(result, Overloaded) for result in results[1:])

    gate.leave()
    gate.leave()
    for number in range(SMALL.running_max):
        await asyncio.wait_for(enter(gate, order, number), 1)
    assert order == [0, 1]


async def test_who_is_cancelled_in_the_moment_of_being_admitted_takes_no_slot() -> None:
    gate = Gate(SMALL, WAIT_SECONDS_MAX)
    for _ in range(SMALL.running_max):
        await gate.enter()
    first, second, third = (asyncio.create_task(gate.enter()) for _ in range(3))
    await asyncio.sleep(0)
    first.cancel()
    gate.leave()  # The first has not yet heard of it, and is not admitted any more.
    await second
    gate.leave()
    third.cancel()  # It is admitted, and does not know.
    await asyncio.gather(first, third, return_exceptions=True)

    async with asyncio.timeout(WAIT_SECONDS_MAX / 2):
        await gate.enter()


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("POST", "/v1/seckill/sales/7/orders", PURCHASES),
        ("GET", "/v1/seckill/sales", PUBLIC),
        ("GET", "/v1/products?limit=3", PUBLIC),
        ("POST", "/v1/orders/1/cancel", MONEY),
        ("POST", "/v1/orders", MONEY),
        ("POST", "/v1/payments/webhook", MONEY),
        ("GET", "/v1/orders/1", ORDERS),
        ("GET", "/v1/orders", ORDERS),
        ("GET", "/v1/orders/1/events", STREAMS),
        ("POST", "/v1/users", ACCOUNTS),
        ("GET", "/v1/admin/orders", ADMIN),
        ("POST", "/v1/admin/seckill/sales", ADMIN),
        ("GET", "/readyz", OPERATOR),
        ("GET", "/", OPERATOR),
    ],
)
def test_each_request_is_of_a_kind(method: str, path: str, kind: Kind) -> None:
    assert kind_of(method, path) is kind


def test_every_kind_has_its_own_bounds() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    assert all(kind.running_max and kind.waiting_max for kind in KINDS)


async def test_a_crowd_before_one_gate_leaves_the_others_open() -> None:
    """Those behind the queue are told so at once; those in it are served when the first are answered."""
    answering, all_here = asyncio.Event(), asyncio.Event()
    most = ACCOUNTS.running_max + ACCOUNTS.waiting_max

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if kind_of(scope["method"], scope["path"]) is ACCOUNTS:
            await answering.wait()
        await Response(status_code=204)(scope, receive, send)

    gates, arrived = Gates(app, PATIENT), 0

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal arrived
        arrived += 1
        if arrived == most:
            all_here.set()
        await gates(scope, receive, send)

    transport = httpx.ASGITransport(app=counted)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        crowd = [asyncio.create_task(client.post("/v1/auth/token")) for _ in range(most)]
        await all_here.wait()
        refused = await client.post("/v1/auth/token")
        others = [await client.get(path) for path in ("/v1/products", "/v1/orders", "/readyz", "/v1/admin/orders")]
        paid = await client.post("/v1/payments/webhook")
        answering.set()
        served = await asyncio.gather(*crowd)

    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    assert {answer.status_code for answer in (*others, paid)} == {204}
    assert {answer.status_code for answer in served} == {204}
