"""The drain: how fast one worker records what has piled up, against COPY of the same rows and against single inserts.

All three write the same rows into the same tables, with their indexes and constraints, from the same core.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from loadtests.bench.accounting import cpu_seconds
from loadtests.bench.cores import pinned
from loadtests.bench.plan import Size
from loadtests.bench.purchases import UNITS, Report
from loadtests.bench.rounds import MICROSECONDS, Spread, spread
from loadtests.bench.sales import DRAIN_SECONDS_MAX, fill, forget, open_sales, row, schedule_sale, until_drained
from loadtests.bench.testbed import NotMeasured, Testbed
from shop.orders.batch import LEDGER_COLUMNS, LINE_COLUMNS, ORDER_COLUMNS

BATCH = 1_000
WATCH_SECONDS = 0.1  # each look is a transaction of its own, on the server that is measured
TABLES = {"orders": ORDER_COLUMNS, "order_lines": LINE_COLUMNS, "stock_ledger": LEDGER_COLUMNS}

Rows = dict[str, list[tuple[Any, ...]]]


class Drain(msgspec.Struct, kw_only=True):
    """Orders per second. `worker_cpu_us` and `postgres` are the CPU per drained order, in microseconds."""

    orders: int
    single_orders: int
    drained_per_second: Spread
    copied_per_second: Spread
    single_per_second: Spread
    worker_cpu_us: Spread


@dataclass
class _Drained:
    per_second: float
    cpu_us: float


async def measure_drain(testbed: Testbed, size: Size, report: Report) -> Drain:
    """In each round a new sale is filled and drained; then its rows are copied, and some inserted, for other sales."""
    drained: list[_Drained] = []
    copied: list[float] = []
    single: list[float] = []
    sale_ids = await open_sales(testbed, units=UNITS, count=size.drain_rounds)
    testbed.start_worker()
    await until_drained(testbed, sale_ids)
    testbed.pin_worker(testbed.cores.api)
    for number, sale_id in enumerate(sale_ids):
        with testbed.worker_frozen():
            await fill(testbed, sale_id, size.drain_orders)
        drained.append(await _drain(testbed, sale_id, size.drain_orders))
        product_id = (await row(testbed, sale_id)).product_id
        others = [await schedule_sale(testbed, product_id, 1) for _ in range(2)]
        await forget(testbed, [sale_id, *others])
        with pinned(testbed.cores.api):
            rows = await _rows(testbed, sale_id)
            copied.append(await _copy(testbed, _moved(rows, others[0])))
            few = {table: found[: size.single_orders] for table, found in _moved(rows, others[1]).items()}
            single.append(await _insert(testbed, few))
        report(
            f"round {number + 1}/{size.drain_rounds}  drain {drained[-1].per_second:8,.0f} orders/s"
            f"  COPY {copied[-1]:8,.0f}  single {single[-1]:8,.0f}"
        )
    return Drain(
        orders=size.drain_orders,
        single_orders=size.single_orders,
        drained_per_second=spread([each.per_second for each in drained], 0),
        copied_per_second=spread(copied, 0),
        single_per_second=spread(single, 0),
        worker_cpu_us=spread([each.cpu_us for each in drained]),
    )


async def _drain(testbed: Testbed, sale_id: int, orders: int) -> _Drained:
    """Watch the watermark of a sale with so many orders more; the clock runs from the first batch that is seen."""
    deadline = time.monotonic() + DRAIN_SECONDS_MAX
    first: tuple[float, int, float] | None = None
    while True:
        watermark = (await row(testbed, sale_id)).watermark
        now, used = time.perf_counter(), cpu_seconds([testbed.worker_pid])
        if first is None and watermark > 1:
            first = now, watermark, used
        if first is not None and watermark >= orders + 1:
            break
        if time.monotonic() > deadline:
            raise NotMeasured(f"the drain of sale {sale_id} stands at {watermark} of {orders + 1}")
        await asyncio.sleep(WATCH_SECONDS)
    began, seen, used_before = first
    if watermark == seen:
        raise NotMeasured("the drain was over before it was seen")
    return _Drained((watermark - seen) / (now - began), MICROSECONDS * (used - used_before) / (watermark - seen))


async def _connection(testbed: Testbed) -> "asyncpg.Connection[Any]":
    return await asyncpg.connect(testbed.settings.database_url.replace("+asyncpg", ""))


async def _rows(testbed: Testbed, sale_id: int) -> Rows:
    """All rows of a sale that was drained, in the order of its ledger."""
    of_sale = {
        "orders": "FROM orders t WHERE t.sale_id = $1 ORDER BY t.seq",
        "order_lines": "FROM order_lines t JOIN orders o ON o.id = t.order_id WHERE o.sale_id = $1 ORDER BY o.seq",
        "stock_ledger": "FROM stock_ledger t WHERE t.sale_id = $1 ORDER BY t.seq",
    }
    connection = await _connection(testbed)
    try:
        found: Rows = {}
        for table, columns in TABLES.items():
            selected = ", ".join(f't."{column}"' for column in columns)
            rows = await connection.fetch(f"SELECT {selected} {of_sale[table]}", sale_id)
            found[table] = [tuple(each) for each in rows]
        return found
    finally:
        await connection.close()


def _moved(rows: Rows, sale_id: int) -> Rows:
    """The same rows for another sale: only the sale's number differs, also in the first bytes of each order's id."""

    def moved(column: str, value: Any) -> Any:
        if column == "sale_id":
            return sale_id
        own_id = column == "order_id" or (column == "id" and isinstance(value, UUID))
        return UUID(bytes=sale_id.to_bytes(4, "big") + value.bytes[4:]) if own_id and value else value

    return {table: [tuple(map(moved, TABLES[table], each)) for each in found if each] for table, found in rows.items()}


async def _copy(testbed: Testbed, rows: Rows) -> float:
    """Orders per second by COPY alone, one transaction for each thousand."""
    connection = await _connection(testbed)
    try:
        began = time.perf_counter()
        for start in range(0, len(rows["orders"]), BATCH):
            async with connection.transaction():
                for table, columns in TABLES.items():
                    batch = rows[table][start : start + BATCH]
                    await connection.copy_records_to_table(table, records=batch, columns=columns)
        return len(rows["orders"]) / (time.perf_counter() - began)
    finally:
        await connection.close()


async def _insert(testbed: Testbed, rows: Rows) -> float:
    """Orders per second when each has a transaction of its own."""
    connection = await _connection(testbed)
    statements = {table: _insert_statement(table, columns) for table, columns in TABLES.items()}
    try:
        began = time.perf_counter()
        for number in range(len(rows["orders"])):
            async with connection.transaction():
                for table, statement in statements.items():
                    await connection.execute(statement, *rows[table][number])
        return len(rows["orders"]) / (time.perf_counter() - began)
    finally:
        await connection.close()


def _insert_statement(table: str, columns: Sequence[str]) -> str:
    names = ", ".join(f'"{column}"' for column in columns)
    places = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
    return f"INSERT INTO {table} ({names}) VALUES ({places})"  # noqa: S608 - our own names
