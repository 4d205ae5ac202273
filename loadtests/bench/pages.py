"""Public pages read by a crowd, beside a bare answer in the same rounds."""

import httpx
import msgspec

from loadtests.bench.plan import Size
from loadtests.bench.purchases import BASELINE_SALE, UNITS, Report, start_baselines
from loadtests.bench.rounds import Summary, Wish, kept, play_in_turn, summarize
from loadtests.bench.sales import forget, open_sales
from loadtests.bench.testbed import Testbed

# The status of the answers that count.
STATUSES = {"bare": "202", "sale": "200", "product": "200", "unchanged": "304"}


class Pages(msgspec.Struct, kw_only=True):
    """`bare` was measured in the same rounds; `unchanged` is the sale's page for those who have it already."""

    bare: Summary
    sale: Summary
    product: Summary
    unchanged: Summary
    dropped_rounds: int


async def measure_pages(testbed: Testbed, size: Size, report: Report) -> Pages:
    """Rounds of bare, the sale's page, a product, and 304 in turn."""
    (sale,) = await open_sales(testbed, units=UNITS)
    await start_baselines(testbed, sale, ["bare"])
    await testbed.stop_worker()
    page = f"/v1/seckill/sales/{sale}"
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{testbed.ports['shop']}") as client:
        first = await client.get(page)
    product, seconds = f"/v1/products/{first.json()['product_id']}", size.seconds
    wishes = {
        "bare": Wish("bare", BASELINE_SALE, seconds),
        "sale": Wish("shop", sale, seconds, page=page),
        "product": Wish("shop", sale, seconds, page=product),
        "unchanged": Wish("shop", sale, seconds, page=page, known_tag=first.headers["etag"]),
    }
    rounds, dropped = await play_in_turn(testbed, wishes, size.answer_rounds, report)
    await forget(testbed, [sale])
    summaries = {
        name: summarize(kept(rounds[name], dropped), status, dropped=len(dropped)) for name, status in STATUSES.items()
    }
    return Pages(**summaries, dropped_rounds=len(dropped))
