"""The work of a recovery, an audit and a drain depends on their sale alone, however many orders there ever were."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import event
from sqlalchemy.engine import Engine

from shop.settings import Settings
from tests.harness import new_user_id
from tests.processes import own_shop
from tests.recovery.losses import until_recovered, until_sold

TABLES = ("orders", "order_lines", "stock_ledger")
# Partial indexes: they hold what is to be done, and nothing of what is done.
OF_WORK_TO_DO = re.compile(r"due|owed|unreleased|released|ran_out|reserved|expires")


@contextmanager
def statements() -> Iterator[dict[str, Any]]:
    """What is sent to Postgres within the block: each statement with the arguments that it had last."""
    seen: dict[str, Any] = {}

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        seen[statement] = parameters

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The nodes of a plan that read one of these tables."""
    if plan.get("Relation Name") in TABLES and plan["Node Type"] != "ModifyTable":
        yield plan
    for child in plan.get("Plans", []):
        yield from scans(child)


def is_bounded(scan: dict[str, Any]) -> bool:
    """Whether a node finds its rows by an index, and does not walk through all of it."""
    if scan["Node Type"] == "Bitmap Heap Scan":
        return all("Index Cond" in child or OF_WORK_TO_DO.search(child["Index Name"]) for child in scan["Plans"])
    return "Index Cond" in scan or bool(OF_WORK_TO_DO.search(scan.get("Index Name", "")))


async def unbounded(settings: Settings, seen: dict[str, Any]) -> dict[str, Any]:
    """The statements whose plan would read a whole table if a join by hash looked cheaper, as with old statistics."""
    connection = await asyncpg.connect(settings.database_url.replace("+asyncpg", ""))
    await connection.execute("SET enable_seqscan = off; SET enable_nestloop = off")
    found = {}
    for statement, parameters in seen.items():
        if not re.match(r"(SELECT|UPDATE|DELETE|WITH)\b", statement) or "payments" in statement:
            continue  # The payments' jobs look at what is to be done of all sales.
        rows = parameters[0] if parameters and isinstance(parameters[0], list | tuple) else parameters
        [[plan]] = await connection.fetch("EXPLAIN (FORMAT JSON) " + statement, *rows)
        wide = [scan for scan in scans(json.loads(plan)[0]["Plan"]) if not is_bounded(scan)]
        if wide:
            found[statement] = wide
    await connection.close()
    return found


async def test_no_statement_about_one_sale_reads_the_orders_of_others(fresh_settings: Settings, tmp_path: Path) -> None:
    """In a shop with five million older orders a recovery took longer than a statement may."""
    with statements() as seen:
        async with own_shop(fresh_settings, tmp_path, worker_here=True) as own:
            shop = own.shop
            sale = await shop.open_sale(units=20)
            for _ in range(3):
                await shop.bought(sale, new_user_id())
            await shop.drained(sale)
            await shop.bought(sale, new_user_id())
            await shop.redis.flushdb()
            await until_recovered(shop, sale, epoch=2)
            await until_sold(shop, sale)
            await shop.drained(sale)
            assert (await shop.audit(sale)).balanced
            await shop.change(sale, "close")
    assert any("recovery_claims" in statement for statement in seen), "nothing was recovered"

    assert await unbounded(fresh_settings, seen) == {}
