"""Each invariant, broken by hand in a sale that runs: the audit sees it, stops the sale and keeps what shows it."""

from collections.abc import Sequence
from typing import NamedTuple

import pytest
from prometheus_client import REGISTRY

from shop.audit.invariants import INVARIANTS
from shop.audit.live.snapshot import EVIDENCE_ROWS_MAX
from shop.ledger.keys import ledger_keys
from tests.harness import Shop
from tests.lua.ledgers import command
from tests.recovery.audit.breaking import execute, findings, sold, until_stopped


class Break(NamedTuple):
    """What is done by hand, and which invariants must be seen broken; `unverified` rows were not verified before."""

    name: str
    invariants: Sequence[str]
    sql: Sequence[str] = ()
    redis: Sequence[str | int] = ()
    unverified: bool = False


BREAKS = [
    Break(
        "a row is missing",
        ["I1"],
        ["DELETE FROM stock_ledger WHERE sale_id = :sale AND epoch = 1 AND seq = 2"],
        unverified=True,
    ),
    Break(
        "the last row is missing",
        ["I1"],
        ["DELETE FROM stock_ledger WHERE sale_id = :sale AND epoch = 1 AND seq = 4"],
        unverified=True,
    ),
    Break("the watermark went back", ["I1"], ["UPDATE sales SET watermark = 3 WHERE id = :sale"]),
    Break(
        "a balance does not follow",
        ["I2"],
        ["UPDATE stock_ledger SET balance = balance + 1 WHERE sale_id = :sale AND epoch = 1 AND seq = 2"],
        unverified=True,
    ),
    Break("the guard has another balance", ["I2"], ["UPDATE sales SET watermark_balance = 9 WHERE id = :sale"]),
    Break("units from nowhere", ["I3"], ["UPDATE sales SET units = units + 1 WHERE id = :sale"]),
    Break("units are held back for nobody", ["I3"], ["UPDATE sales SET held_back = 1 WHERE id = :sale"]),
    Break("a guard that forgets an order", ["I4"], ["UPDATE sales SET units_taken = units_taken - 1 WHERE id = :sale"]),
    Break(
        "a buyer has too much",
        ["I5"],
        [
            "UPDATE stock_ledger SET user_id = 'greedy' WHERE sale_id = :sale AND epoch = 1 AND seq > 2",
            "UPDATE orders SET user_id = 'greedy' WHERE sale_id = :sale AND seq > 2",
        ],
        unverified=True,
    ),
    Break(
        "an order of another size",
        ["I6"],
        ["UPDATE orders SET quantity = 2 WHERE sale_id = :sale AND seq = 4"],
        unverified=True,
    ),
    Break(
        "an order of somebody else",
        ["I6"],
        ["UPDATE orders SET user_id = 'thief' WHERE sale_id = :sale AND seq = 4"],
        unverified=True,
    ),
    Break(
        "a release without its mark",
        ["I6"],
        ["UPDATE orders SET released_at = NULL WHERE sale_id = :sale AND seq = 1"],
        unverified=True,
    ),
    Break("Redis has a unit too many", ["I2"], redis=["HINCRBY", "available", 1]),
    Break("Redis holds a unit back", ["I2"], redis=["HINCRBY", "held_back", 1]),
    Break("the last events of the stream are gone", ["I1"], redis=["HINCRBY", "seq", 1]),
]


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.name.replace(" ", "-"))
async def test_a_sale_that_is_proven_wrong_is_stopped_and_the_evidence_is_kept(shop: Shop, broken: Break) -> None:
    """Nobody can buy, the alarm says why, the finding is written once, and the metrics and the report show it."""
    sale = await sold(shop)
    before = {name: violations(name) for name in broken.invariants}
    if broken.redis:
        verb, *change = broken.redis
        await command(shop.redis, verb, ledger_keys(sale.id, 1).sale, *change)
    else:
        await execute(shop, sale, broken.sql, unverified=broken.unverified)

    row = await until_stopped(shop, sale)

    [finding] = await findings(shop, sale)
    found = {sentence[:2] for sentence in finding.violations}
    assert set(broken.invariants) <= found <= set(INVARIANTS)
    assert (row.alarm or "").startswith("the audit found that ")
    assert all(violations(name) > before[name] for name in broken.invariants)
    assert finding.evidence["verified"]["epoch"] == 1
    assert len(finding.evidence["rows"]) <= EVIDENCE_ROWS_MAX
    client = await shop.client()
    report = (await client.get(f"/v1/admin/sales/{sale.id}/audit", headers=shop.admin_headers())).json()
    assert [each["violations"] for each in report["findings"]] == [finding.violations]
    assert report["stopped_at"] is not None
    assert not any(report["invariants"][name] for name in broken.invariants), "the full pass does not see it"


def violations(invariant: str) -> float:
    """How often this was found broken, as the metrics have it."""
    return REGISTRY.get_sample_value("shop_audit_violations_total", {"invariant": invariant}) or 0.0
