"""Readers of the catalogue: a key that has expired, cold products, made-up ids, and how soon a change is seen.

Statements are counted where they arrive, in the log of Postgres.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import httpx
import msgspec
from sqlalchemy import insert, text, update

from loadtests.bench.plan import Size
from loadtests.bench.purchases import UNITS, Report
from loadtests.bench.rounds import Spread, spread
from loadtests.bench.sales import forget, open_sales, row
from loadtests.bench.settings import HOST
from loadtests.bench.testbed import POLL_SECONDS, READY_SECONDS_MAX, NotMeasured, Testbed
from loadtests.client.http import Address, Connection, Response
from shop.auth import issue_token
from shop.listening_sockets import free_port
from shop.products.models import Product
from shop.redis import connect
from shop.sales.models import Sale

PROCESSES, READERS, PRODUCTS = 4, 5_000, 2_000
CONNECTING_AT_ONCE_MAX = 200
FLOOD_READERS, COLD_READ_SECONDS = 64, 0.1
# Between these ids there is nothing but the products of this bench, and none is above the last.
MADE_UP, COLD_IDS, NEWEST_ID = 10_000_000, 50_000_000, 100_000_000
CHANGES, SEEN_SECONDS_MAX, READ_PAUSE_SECONDS = 20, 5.0, 0.002
ANSWER_SECONDS_MAX = 30.0
PAGE_LIVED_SECONDS = 0.3
MILLISECONDS = 1000
ENTRY = re.compile(r"^(?=\d{4}-\d\d-\d\d )", re.MULTILINE)

Ask = Callable[[], list[str]]


class Catalogue(msgspec.Struct, kw_only=True):
    """What readers cost: loads of one expired key by all processes, and questions a second for made-up ids.

    `served_share` is of the readers of cold products; `stale_ms` is the p99 of how long after a commit a process showed
    what was before.
    """

    stampede_loads: Spread
    served_share: Spread
    penetration_per_second: Spread
    cold_p99_ms: Spread
    stale_ms: Spread


async def measure_catalogue(testbed: Testbed, size: Size, report: Report) -> Catalogue:
    """Rounds over several API processes. Raises NotMeasured."""
    (sale_id,) = await open_sales(testbed, units=UNITS)
    await testbed.stop_worker()
    found: dict[str, list[float]] = {name: [] for name in Catalogue.__struct_fields__}
    async with _processes(testbed) as ports, _statements(testbed) as statements:
        for number in range(size.overload_rounds):
            product_ids = await _products(testbed, PRODUCTS)
            found["served_share"].append(await _served(ports, product_ids))
            found["stampede_loads"].append(await _stampede(testbed, ports, product_ids[0], statements))
            flood = await _flood(testbed, number, size.overload_seconds, statements)
            found["penetration_per_second"].append(flood[0])
            found["cold_p99_ms"].append(flood[1])
            found["stale_ms"].append(await _stale_ms(testbed, ports, product_ids[0], sale_id))
            report(
                f"round {number + 1}/{size.overload_rounds}  " + str({name: each[-1] for name, each in found.items()})
            )
    await forget(testbed, [sale_id])
    return Catalogue(**{name: spread(each) for name, each in found.items()})


@asynccontextmanager
async def _processes(testbed: Testbed) -> AsyncIterator[list[int]]:
    """The ports of the API and of some more beside it."""
    names = [f"api-{number}" for number in range(2, PROCESSES + 1)]
    for name in names:
        testbed.ports[name] = free_port(HOST, 0)
        extra = {"SHOP_API_PORT": str(testbed.ports[name]), "SHOP_METRICS_PORT": "0"}
        testbed.local.start(name, "api", extra=extra)
    try:
        for name in names:
            await _until_answering(testbed, name)
        yield [testbed.ports[name] for name in ("shop", *names)]
    finally:
        for name in names:
            await asyncio.to_thread(testbed.local.stop, name)


async def _until_answering(testbed: Testbed, name: str) -> None:
    deadline = time.monotonic() + PROCESSES * READY_SECONDS_MAX
    async with httpx.AsyncClient(base_url=f"http://{HOST}:{testbed.ports[name]}") as client:
        while time.monotonic() < deadline and testbed.local.processes[name].poll() is None:
            try:
                if (await client.get("/livez")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(POLL_SECONDS)
    raise NotMeasured(f"{name} did not start:\n{testbed.local.log(name).read_text()[-2000:]}")


@asynccontextmanager
async def _statements(testbed: Testbed) -> AsyncIterator[Ask]:
    """Within it Postgres logs each statement; yields what gives those since the last call."""
    read_to = 0

    def since_then() -> list[str]:
        nonlocal read_to
        with testbed.servers.postgres.log.open("rb") as log:
            log.seek(read_to)
            data = log.read()
        read_to += len(data)
        return [each for each in ENTRY.split(data.decode(errors="replace")) if "execute " in each]

    async def log(what: str) -> None:
        async with testbed.database.engine.connect() as plain:
            connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(text(f"ALTER SYSTEM SET log_statement = '{what}'"))
            await connection.execute(text("ALTER SYSTEM SET log_parameter_max_length = 0"))
            await connection.execute(text("SELECT pg_reload_conf()"))

    await log("all")
    try:
        yield since_then
    finally:
        await log("none")


async def _products(testbed: Testbed, count: int, *, first_id: int | None = None) -> list[int]:
    """The ids of so many new products, which nobody has read."""
    rows = [{"name": f"Product {number}", "price_minor": 990, "currency": "EUR"} for number in range(count)]
    if first_id is not None:
        rows = [{**each, "id": first_id + number} for number, each in enumerate(rows)]
    async with testbed.database.transaction() as session:
        return list(await session.scalars(insert(Product).returning(Product.id), rows))


async def _served(ports: Sequence[int], product_ids: Sequence[int]) -> float:
    """The share of the readers who are answered, though nobody has read these products before."""
    answers = await _all_at_once(ports, [_product(product_id) for product_id in product_ids])
    return Counter(answer.status for answer in answers)[200] / len(answers)


async def _stampede(testbed: Testbed, ports: Sequence[int], product_id: int, statements: Ask) -> float:
    """How often a product is loaded whose value has expired, when all readers come at once."""
    side = connect(testbed.servers.side_url or testbed.servers.redis_url, testbed.settings)
    await asyncio.sleep(PAGE_LIVED_SECONDS)
    gone = await side.delete(f"shop:{{cache:product:{product_id}}}:value")
    await side.aclose(close_connection_pool=True)
    if not gone:
        raise NotMeasured("the product was not in the cache")
    statements()
    await _all_at_once(ports, [_product(product_id)])
    return sum("products.id = ANY" in each for each in statements())


async def _all_at_once(ports: Sequence[int], paths: Sequence[str]) -> list[Response]:
    """The answers to readers on as many connections, which are open before the first one asks."""
    gate = asyncio.Semaphore(CONNECTING_AT_ONCE_MAX)

    async def opened(number: int) -> tuple[Connection, bytes]:
        address = Address(HOST, ports[number % len(ports)])
        async with gate:
            connection = await Connection.open(address, timeout_seconds=ANSWER_SECONDS_MAX)
        return connection, address.request("GET", paths[number % len(paths)], headers={})

    readers = await asyncio.gather(*(opened(number) for number in range(READERS)))
    try:
        return await asyncio.gather(
            *(connection.exchange(request, timeout_seconds=ANSWER_SECONDS_MAX) for connection, request in readers)
        )
    finally:
        for connection, _ in readers:
            connection.close()


async def _flood(testbed: Testbed, number: int, seconds: float, statements: Ask) -> tuple[float, float]:
    """Questions a second for made-up ids at one process, and the p99 (ms) of a cold product beside them."""
    cold = iter(await _products(testbed, int(seconds / COLD_READ_SECONDS) + 1, first_id=COLD_IDS + number * PRODUCTS))
    await _products(testbed, 1, first_id=NEWEST_ID + number)
    address, ends = Address(HOST, testbed.ports["shop"]), time.monotonic() + seconds
    cold_ms: list[float] = []

    async def make_up(reader: int) -> None:
        connection = await Connection.open(address, timeout_seconds=ANSWER_SECONDS_MAX)
        made_up = (2 * NEWEST_ID if reader % 2 else MADE_UP) + (number * FLOOD_READERS + reader) * 100_000
        while time.monotonic() < ends:
            made_up += 1
            path = _product(made_up) if reader % 4 < 2 else f"/v1/seckill/sales/{made_up}"
            answer = await connection.exchange(
                address.request("GET", path, headers={}), timeout_seconds=ANSWER_SECONDS_MAX
            )
            if answer.status not in {404, 503}:
                raise NotMeasured(f"{path} was answered {answer.status}")
        connection.close()

    async def read_cold() -> None:
        connection = await Connection.open(address, timeout_seconds=ANSWER_SECONDS_MAX)
        while time.monotonic() < ends:
            request, began = address.request("GET", _product(next(cold)), headers={}), time.perf_counter()
            answer = await connection.exchange(request, timeout_seconds=ANSWER_SECONDS_MAX)
            cold_ms.append((time.perf_counter() - began) * MILLISECONDS)
            if answer.status != 200:
                raise NotMeasured(f"a cold product was answered {answer.status}")
            await asyncio.sleep(COLD_READ_SECONDS)
        connection.close()

    statements()
    await asyncio.gather(read_cold(), *(make_up(reader) for reader in range(FLOOD_READERS)))
    asked = sum("= ANY" in each and "products.name" not in each for each in statements())
    return asked / seconds, _p99(cold_ms)


async def _stale_ms(testbed: Testbed, ports: Sequence[int], product_id: int, sale_id: int) -> float:
    """The p99 of how long after the commit of a change any process showed what was before.

    Products are changed through one of the processes; sales in Postgres alone, so that no news of it reaches anybody.
    """
    token = issue_token(testbed.settings, user_id="bench", role="admin")
    headers = {"Authorization": f"Bearer {token}"}
    paused = (await row(testbed, sale_id)).paused
    found: list[float] = []
    async with httpx.AsyncClient(base_url=f"http://{HOST}:{ports[0]}", headers=headers) as client:
        for number in range(CHANGES):
            path, name = _product(product_id), f"Name {time.monotonic_ns()}"
            watching = _watch(ports, path, name.encode())
            (await client.patch(f"/v1/admin{path.removeprefix('/v1')}", json={"name": name})).raise_for_status()
            found += await _seen_ms(watching)
            paused = not paused
            watching = _watch(ports, f"/v1/seckill/sales/{sale_id}", b'"paused"' if paused else b'"open"')
            async with testbed.database.transaction() as session:
                await session.execute(update(Sale).where(Sale.id == sale_id).values(paused=paused))
            found += await _seen_ms(watching)
            await asyncio.sleep(number % 7 * PAGE_LIVED_SECONDS / 14)
    return _p99(found)


def _watch(ports: Sequence[int], path: str, sign: bytes) -> list["asyncio.Task[float]"]:
    return [asyncio.create_task(_seen_at(port, path, sign)) for port in ports]


async def _seen_ms(watching: Sequence["asyncio.Task[float]"]) -> list[float]:
    committed_at = time.monotonic()
    return [(seen_at - committed_at) * MILLISECONDS for seen_at in await asyncio.gather(*watching)]


async def _seen_at(port: int, path: str, sign: bytes) -> float:
    """When this process showed a page with these bytes."""
    address, deadline = Address(HOST, port), time.monotonic() + SEEN_SECONDS_MAX
    connection = await Connection.open(address, timeout_seconds=ANSWER_SECONDS_MAX)
    request = address.request("GET", path, headers={})
    while sign not in (await connection.exchange(request, timeout_seconds=ANSWER_SECONDS_MAX)).body:
        if time.monotonic() > deadline:
            raise NotMeasured(f"{path} did not show {sign.decode()}")
        await asyncio.sleep(READ_PAUSE_SECONDS)
    connection.close()
    return time.monotonic()


def _product(product_id: int) -> str:
    return f"/v1/products/{product_id}"


def _p99(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * 0.99), len(ordered) - 1)]
